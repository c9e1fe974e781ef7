/** `deno task reset`: fresh data for the embedded servers of this checkout, and for no others. */

import type { Command } from "commander";
import { type Config, configWith, loadConfig } from "../config/load.ts";
import { parseRedisUrl } from "../config/redis_address.ts";
import { WriteBehindError } from "../core/errors.ts";
import { connectRedis } from "../redis/connect.ts";

/** Empties them, or says what it would do: the exit status is 1 where that was not asked for by `--yes`. */
async function runReset({ yes = false }: { yes?: boolean }): Promise<void> {
  const { resetServices, runningServices } = await import("../dev/servers/services.ts");
  const config = await loadConfig();
  const { redis } = await runningServices();
  const users = redis
    ? await clientsOf(configWith(config, {
      redis: {
        ...{ sentinels: null, sentinel_name: null, cluster: null },
        ...parseRedisUrl("", redis.url),
      },
    }))
    : [];
  if (users.length > 0) {
    throw new WriteBehindError(
      `the embedded servers are in use by ${
        users.join(", ")
      }: stop sinks, traffic and notebooks, then run ` +
        "the same command again; nothing was changed",
    );
  }
  if (!yes) {
    console.log(
      "all data of the embedded Redis, its replica, PostgreSQL and MariaDB would be removed (.services/)",
    );
    throw new WriteBehindError("nothing was changed; --yes does it");
  }
  const running = await resetServices({ config, onProgress: console.log });
  console.log(running.length > 0 ? `fresh, and running again: ${running.join(", ")}` : "fresh");
}

/** The names of the clients that a Redis has besides us, each once, with how many there are of it. */
async function clientsOf(config: Config): Promise<string[]> {
  await using redis = await connectRedis(config, { rights: "operator" });
  const list = String(await redis.call("CLIENT", "LIST", "TYPE", "normal")).trim().split("\n");
  const counts = new Map<string, number>();
  for (const client of list) {
    if (/ cmd=client\|list /.test(client)) continue;
    const name = / name=(\S*)/.exec(client)?.[1] || "a client without a name";
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].map(([name, times]) => times === 1 ? name : `${name} (${times} times)`);
}

/** Adds it to the command line. */
export function addReset(program: Command): void {
  program.command("reset")
    .description("remove all data of this checkout's embedded servers; those that run start again")
    .option("--yes", "do it")
    .action(runReset);
}
