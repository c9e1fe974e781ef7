/** Sink processes for fault tests: started, killed where or when it is told, started again. */

import { type Config, configWith, RedisWriteBehind } from "writebehind";
import type { Pipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, type RunningCommand, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

/** The keys that tests of processes set; a short lease makes a successor come soon. */
export type WriteBehindKeys = Partial<Config["write_behind"]>;

/**
 * Starts `deno task sink` on the pipeline's servers.
 * @param checkout of which version it is
 */
export async function startSink(
  config: Config,
  keys: WriteBehindKeys = {},
  env: Record<string, string> = {},
  checkout?: string,
): Promise<RunningCommand> {
  const write_behind = { lease_seconds: 0.5, retry_base_ms: 5, retry_max_ms: 200, ...keys };
  const { partitions } = config.streams;
  const entities = config.entities.some(({ cache }) => cache.enabled)
    ? {
      entities: config.entities.map(({ name, table, index_name, cache }) => ({
        name,
        table,
        index_name,
        cache,
      })),
    }
    : {};
  const path = await configFile({ write_behind, streams: { partitions }, ...entities });
  return startTask(["sink", "--config", path], { ...environmentOf(config), ...env }, checkout);
}

/** Ends a sink as a power cut would. */
export async function killSink(sink: RunningCommand): Promise<void> {
  sink.kill("SIGKILL");
  await sink.status;
}

/** Starts a sink that stands still at a failpoint (`name` or `name:times`), and kills it there. */
export async function killAt(
  place: string,
  config: Config,
  { keys = {}, there = async () => {}, started = async () => {} }: {
    keys?: WriteBehindKeys;
    /** called when the sink runs, before it has come there */
    started?: (sink: RunningCommand) => Promise<void>;
    /** called while it stands there */
    there?: () => Promise<void>;
  } = {},
): Promise<void> {
  await using sink = await startSink(config, keys, { WRITEBEHIND_FAILPOINT: place });
  await started(sink);
  await waitFor(() => sink.output().includes(`failpoint ${place.split(":")[0]}`), {
    what: `the failpoint ${place}`,
    deadlineMs: 20_000,
  }).catch((error) => {
    throw new Error(`${error.message}; the sink said:\n${sink.output()}`);
  });
  await there();
  await killSink(sink);
}

/** Applies what is there, by a sink in this process. */
export async function drain({ redis, pool, config }: Pipeline, keys: WriteBehindKeys = {}) {
  const own = configWith(config, { write_behind: keys });
  await using sink = new RedisWriteBehind(redis, pool, own, "session");
  return await sink.drain();
}
