/** The servers of a soak, and what happens to them: one Redis, or a cluster. */

import { createTable, type Random } from "writebehind";
import { setTimeout as delay } from "node:timers/promises";
import { below } from "writebehind/core/random.ts";
import { type PostgresServer, startPostgres } from "writebehind/dev/servers/postgres.ts";
import { type RedisServer, startRedis } from "writebehind/dev/servers/redis.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { TestCluster } from "../support/cluster.ts";
import { type Pipeline, pipelineOn } from "../support/pipeline.ts";
import { testPostgres, waitFor } from "../support/servers.ts";

/** How long servers may take to be back, in ms. */
const BACK_MS = 60_000;
const STOPPED_LONG = "master stopped (SIGSTOP) for 30 s, goes on";
/** Each write is on disk before it is answered. */
const REDIS_ARGS = ["--appendfsync", "always"];

/** A PostgreSQL that is stopped at once, and started again on its folder and port. */
export class BreakablePostgres {
  #running: Pick<PostgresServer, "stop">;
  #dir: string;
  #port: number;

  constructor(server: PostgresServer) {
    this.#running = server;
    ({ dir: this.#dir, port: this.#port } = server);
  }

  async restart(): Promise<void> {
    await this.#running.stop("immediate");
    this.#running = await startPostgres({ dir: this.#dir, port: this.#port });
  }

  async stop(): Promise<void> {
    await this.#running.stop("immediate");
  }
}

/** What happens to Redis, by its name; each comes back only when all of it works again. */
export type RedisFaults = Record<string, (random: Random) => Promise<void>>;

/** One Redis. */
export class OneRedis {
  static readonly options = { redis: { extraArgs: REDIS_ARGS } };
  #running: Pick<RedisServer, "kill" | "stop">;
  #redis: Pipeline["redis"];
  #place: { dir: string; port: number };
  /** what it is started with */
  #args = [...REDIS_ARGS];
  readonly faults: RedisFaults = { "Redis killed, started": () => this.restart() };

  constructor({ servers, redis }: Pipeline) {
    this.#running = servers.redis;
    this.#redis = redis;
    const { dir, port } = servers.redis;
    this.#place = { dir, port };
  }

  /** From now on it has so many bytes, and evicts what has a time. */
  async limit(bytes: number): Promise<void> {
    const settings = { "maxmemory": String(bytes), "maxmemory-policy": "volatile-lfu" };
    for (const [name, value] of Object.entries(settings)) {
      await this.#redis.config("SET", name, value);
      this.#args.push(`--${name}`, value);
    }
  }

  /**
   * Kills it and starts it again; ends when the connection is back, which comes by itself.
   * @param between is given its folder
   */
  async restart(between: (dir: string) => Promise<void> = async () => {}): Promise<void> {
    await this.#running.kill();
    await between(this.#place.dir);
    const { port } = this.#place;
    const again = await startRedis({ ...this.#place, extraArgs: this.#args });
    this.#running = again;
    // Or the clients go on with another program's Redis, which has none of the documents.
    if (again.port !== port) {
      throw new Error(`Redis came back on port ${again.port}: another program has taken ${port}`);
    }
    await waitFor(() => this.#redis.status === "ready", {
      what: "the way back",
      deadlineMs: BACK_MS,
    });
  }

  async stop(): Promise<void> {
    await this.#running.stop();
  }
}

/** A cluster of three masters and a replica of each. */
export class SoakCluster {
  #cluster: TestCluster;
  #streams: string[] = [];

  private constructor(cluster: TestCluster) {
    this.#cluster = cluster;
  }

  static async start(): Promise<SoakCluster> {
    return new SoakCluster(await TestCluster.start());
  }

  /** A pipeline over it, and a PostgreSQL. */
  async pipeline(
    overrides: NonNullable<Parameters<typeof pipelineOn>[1]>,
  ): Promise<Pipeline> {
    await using stack = new AsyncDisposableStack();
    const postgres = stack.use(await testPostgres());
    const servers = { redis: this.#cluster.nodes[0]!, postgres, [Symbol.asyncDispose]: nothing };
    const { cluster } = this.#cluster.config;
    const pipeline = stack.use(
      await pipelineOn(servers, { ...overrides, redis: { ...overrides.redis, cluster } }),
    );
    await createTable(pipeline.pool, pipeline.config, "session");
    this.#streams = allPartitions(pipeline.config, "session").map(({ stream }) => stream);
    const owned = stack.move();
    return { ...pipeline, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  /** Of a partition by chance: its stream, and the master that has it. */
  async #one(random: Random): Promise<{ stream: string; master: RedisServer }> {
    await this.#cluster.settled();
    const stream = this.#streams[below(random, this.#streams.length)]!;
    return { stream, master: await this.#cluster.masterOf(stream) };
  }

  /** A master stands still, also for a while after its replica has taken over. */
  async #stopped(random: Random, ms: number): Promise<void> {
    const { stream, master } = await this.#one(random);
    const end = performance.now() + ms;
    await master.kill("SIGSTOP");
    try {
      await this.#cluster.failedOver(stream, master);
      await delay(Math.max(0, end - performance.now()));
    } finally {
      await master.kill("SIGCONT");
    }
    await this.#cluster.settled();
  }

  readonly faults: RedisFaults = {
    "master killed, failed over, started": async (random) => {
      const { stream, master } = await this.#one(random);
      await master.kill();
      await this.#cluster.failedOver(stream, master);
      await this.#cluster.restart(master);
      await this.#cluster.settled();
    },
    "master killed, started": async (random) => {
      const { master } = await this.#one(random);
      await master.kill();
      await this.#cluster.restart(master);
      await this.#cluster.settled();
    },
    "replica takes over from a live master": async (random) => {
      const { stream, master } = await this.#one(random);
      await this.#cluster.handOver(stream, master);
      await this.#cluster.settled();
    },
    "master stopped (SIGSTOP), failed over, goes on": (random) =>
      this.#stopped(random, 1000 * random()),
    [STOPPED_LONG]: async (random) => {
      delete this.faults[STOPPED_LONG]; // once is enough, or little else would happen
      await this.#stopped(random, 30_000);
    },
    "slot moved to another master": async (random) => {
      const { stream, master } = await this.#one(random);
      const masters = await Promise.all(
        this.#streams.map((other) => this.#cluster.masterOf(other)),
      );
      const to = masters.find(({ port }) => port !== master.port);
      if (to) await this.#cluster.move(stream, to);
      await this.#cluster.settled();
    },
  };

  async stop(): Promise<void> {
    await this.#cluster[Symbol.asyncDispose]();
  }
}

const nothing = () => Promise.resolve();
