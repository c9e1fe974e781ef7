/** A primary, its replicas, and sentinels that watch over them: real ones, of one test file. */

import { join } from "node:path";
import { answers, redisInfo } from "writebehind/config/probe.ts";
import { findRedis, libraryPath } from "writebehind/dev/servers/binaries.ts";
import { endProcess } from "writebehind/dev/servers/processes.ts";
import type { RedisServer } from "writebehind/dev/servers/redis.ts";
import { HOST, type Server, startServer } from "writebehind/dev/servers/server.ts";
import { Redis } from "ioredis";
import { testFolder, testRedis, waitFor } from "./servers.ts";

/** What the sentinels call the primary. */
export const NAME = "mymaster";
/** How long a failover may take before the sentinels give it up, in ms. */
const FAILOVER_TIMEOUT_MS = 4000;

/** A sentinel. */
type Sentinel = Pick<Server, "host" | "port" | "stop">;

/** Starts a sentinel that watches over a primary. */
export async function testSentinel(
  primary: { host: string; port: number },
  { quorum = 2, tls = false, more = "" }: { quorum?: number; tls?: boolean; more?: string } = {},
): Promise<Sentinel & AsyncDisposable> {
  const binaries = await findRedis();
  const dir = testFolder("sentinel");
  await Deno.mkdir(dir);
  const file = join(dir, "sentinel.conf");
  await Deno.writeTextFile(
    file,
    `bind ${HOST}
dir ${dir}
sentinel monitor ${NAME} ${primary.host} ${primary.port} ${quorum}
sentinel down-after-milliseconds ${NAME} 1000
sentinel failover-timeout ${NAME} ${FAILOVER_TIMEOUT_MS}
sentinel parallel-syncs ${NAME} 2
${more}
`,
  );
  const sentinel = await startServer({
    title: "Sentinel",
    log: join(dir, "sentinel.log"),
    cwd: dir,
    env: libraryPath(binaries),
    command: (port) => [
      ...[binaries.server, file, ...tls ? ["--port", "0", "--tls-port"] : ["--port"], String(port)],
      "--sentinel",
    ],
    lacks: async (_, port) => await answers(HOST, port) ? undefined : "does not answer",
    portTaken: "Address already in use",
    giveUp: "SIGKILL",
  }, undefined);
  const stop = () => endProcess(sentinel, "SIGKILL", 0);
  return { host: HOST, port: sentinel.port, stop, [Symbol.asyncDispose]: stop };
}

/** Runs a command on a server or a sentinel, on a connection of its own. */
export async function ask(
  { host, port }: { host: string; port: number },
  command: string,
  ...args: (string | number)[]
): Promise<unknown> {
  const client = new Redis({ host, port, protocol: 2, retryStrategy: () => null });
  client.on("error", () => {}); // the call fails by it
  try {
    return await client.call(command, args.map(String));
  } finally {
    client.disconnect();
  }
}

/** A primary with two replicas, and three sentinels. */
export class SentinelSet implements AsyncDisposable {
  readonly servers: (RedisServer & AsyncDisposable)[] = [];
  readonly sentinels: (Sentinel & AsyncDisposable)[] = [];

  static async start(): Promise<SentinelSet> {
    const set = new SentinelSet();
    const extraArgs = ["--busy-reply-threshold", "100", "--repl-diskless-load", "swapdb"];
    const primary = await testRedis({ extraArgs });
    set.servers.push(primary);
    set.servers.push(
      ...await Promise.all([1, 2].map(() => testRedis({ extraArgs, replicaOf: primary }))),
    );
    set.sentinels.push(...await Promise.all([1, 2, 3].map(() => testSentinel(primary))));
    for (const sentinel of set.sentinels) {
      // What they would else do every 10 s, and every 2 s.
      await ask(sentinel, "SENTINEL", "DEBUG", "info-period", 200, "publish-period", 1000);
    }
    await set.settled();
    return set;
  }

  /** The keys of the section `redis` that name them. */
  get config() {
    const sentinels = this.sentinels.map(({ host, port }) => ({ host, port }));
    return { sentinels, sentinel_name: NAME };
  }

  /** Runs a command on the first sentinel. */
  order(...args: (string | number)[]): Promise<unknown> {
    return ask(this.sentinels[0]!, "SENTINEL", ...args);
  }

  /** The server that a sentinel calls the primary. */
  async primary(): Promise<RedisServer & AsyncDisposable> {
    const [, port] = await this.order("GET-MASTER-ADDR-BY-NAME", NAME) as [string, string];
    return this.servers.find((server) => server.port === Number(port))!;
  }

  /** Waits until a server other than this one is the primary. */
  async other(before: RedisServer): Promise<RedisServer> {
    return await waitFor(async () => {
      const now = await this.primary();
      return now.port === before.port ? undefined : now;
    }, { what: "the failover", deadlineMs: 60_000 });
  }

  /** Makes a server other than this one the primary. */
  async failOver(before: RedisServer): Promise<RedisServer> {
    let orderedAt = -Infinity;
    return await waitFor(async () => {
      const now = await this.primary();
      if (now.port !== before.port) return now;
      // One that takes longer than the sentinels wait for is given up.
      if (Date.now() - orderedAt < 3 * FAILOVER_TIMEOUT_MS) return undefined;
      orderedAt = Date.now();
      await this.order("FAILOVER", NAME);
    }, { what: "the failover", deadlineMs: 60_000 });
  }

  /** Waits until all servers are up, and all sentinels know of it. */
  async settled(): Promise<void> {
    await waitFor(async () => {
      const { port } = await this.primary();
      for (const sentinel of this.sentinels) {
        const info = String(await ask(sentinel, "INFO"));
        const wanted = `status=ok,address=${HOST}:${port},slaves=2,sentinels=3`;
        if (!info.includes(wanted)) return false;
      }
      const infos = await Promise.all(this.servers.map((server) => redisInfo(server.port, "")));
      const attached = infos.filter((info) =>
        info.includes(`master_port:${port}\r`) && info.includes("master_link_status:up")
      );
      return attached.length === 2;
    }, { what: "the set to settle", deadlineMs: 30_000 });
  }

  /** Starts a server that was killed again, on its port and with its data: the sentinels make it a replica. */
  async restart(server: RedisServer): Promise<void> {
    const at = this.servers.findIndex(({ port }) => port === server.port);
    this.servers[at] = await testRedis({ dir: server.dir, port: server.port });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(
      [...this.sentinels, ...this.servers].map((one) => one[Symbol.asyncDispose]()),
    );
  }
}
