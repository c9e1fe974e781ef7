/** A Redis and a target that is no PostgreSQL, and the commands on them. */

import { dirname } from "node:path";
import {
  type Config,
  configWith,
  connectRedis,
  type DeepPartial,
  openTarget,
  parseConfig,
  type RedisConnection,
  RedisWriteBehind,
  type SinkStatus,
  type TargetConfig,
} from "writebehind";
import type { Target } from "writebehind/targets";
import { configFile, type RunningCommand, startTask } from "../support/processes.ts";
import { testFolder, testRedis } from "../support/servers.ts";

export interface TargetPipeline extends AsyncDisposable {
  readonly config: Config;
  readonly redis: RedisConnection;
  /** opened by this process, beside the commands */
  readonly target: Target;
  /** starts a task on the same Redis and target; PostgreSQL is nowhere */
  start(args: string[], env?: Record<string, string>): RunningCommand;
  /** runs a task to its end */
  run(...args: string[]): Promise<{ code: number; output: string }>;
}

export interface FilePipeline extends TargetPipeline {
  /** the SQLite file */
  readonly path: string;
}

/** Starts a Redis of its own, and names a file that is not there yet. */
export async function filePipeline(overrides: DeepPartial<Config> = {}): Promise<FilePipeline> {
  const path = `${testFolder("sqlite")}/data.db`;
  const target = { name: "local", kind: "sqlite" as const, on_full: "stop" as const, path };
  const pipeline = await targetPipeline(target, overrides, { WRITEBEHIND_DATA: dirname(path) });
  return { ...pipeline, path };
}

/**
 * Starts a Redis of its own in front of a target.
 * @param variables what the commands' environment has besides
 */
export async function targetPipeline(
  to: TargetConfig,
  overrides: DeepPartial<Config> = {},
  variables: Record<string, string> = {},
): Promise<TargetPipeline> {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(await testRedis());
  const keys = {
    targets: [to],
    write_behind: { lease_seconds: 0.5, retry_base_ms: 5, retry_max_ms: 200 },
  };
  const base = configWith(parseConfig("", "test.yaml"), keys);
  const config = configWith(configWith(base, overrides), {
    redis: { host: server.host, port: server.port },
  });
  const redis = stack.use(await connectRedis(config));
  const target = stack.use(await openTarget(config));
  const file = await configFile({ ...keys, ...overrides });
  const environment = {
    REDIS_URL: `redis://${server.host}:${server.port}`,
    DATABASE_URL: "nobody asks for it",
    ...variables,
    NO_COLOR: "1",
  };
  const start: FilePipeline["start"] = (args, env = {}) =>
    startTask([...args, "--config", file], { ...environment, ...env });
  const owned = stack.move();
  return {
    config,
    redis,
    target,
    start,
    run: async (...args) => {
      await using task = start(args);
      const { code } = await task.status;
      return { code, output: task.output() };
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Applies what is there, by a sink in this process. */
export async function drain({ redis, target, config }: TargetPipeline): Promise<SinkStatus> {
  await using sink = new RedisWriteBehind(redis, target, config, "session");
  return await sink.drain();
}
