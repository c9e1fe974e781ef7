/** Two SQLite files behind one Redis: the cheapest pair of targets. */

import assert from "node:assert/strict";
import {
  type Config,
  configWith,
  connectRedis,
  insertDocument,
  openTarget,
  parseConfig,
  type RedisConnection,
  RedisWriteBehind,
  type Target,
  verify,
} from "writebehind";
import { testFolder, testRedis } from "./servers.ts";

export interface Two extends AsyncDisposable {
  redis: RedisConnection;
  config: Config;
  a: Target;
  b: Target;
}

type Overrides = Parameters<typeof configWith>[1];

/** What is said of both targets. */
interface Both {
  onFull?: "stop" | "detach" | undefined;
  /** the partitions of each, where neither has all */
  ranges?: readonly [a: string, b: string] | undefined;
}

/** A step of a test, on an emptied Redis and two new files. */
export type Step = (
  name: string,
  run: (two: Two) => Promise<void>,
  overrides?: Overrides & Both,
) => Promise<boolean>;

/** A test of several steps, on one Redis. */
export async function withTwo(
  t: Deno.TestContext,
  run: (step: Step) => Promise<void>,
): Promise<void> {
  await using server = await testRedis();
  await run((name, steps, { onFull = "stop", ranges, ...overrides } = {}) =>
    t.step(name, async () => {
      await using two = await twoFiles(server, { onFull, ranges }, overrides);
      try {
        await steps(two);
      } finally {
        await two.redis.flushall(); // what is there when the next one connects counts for it
      }
    })
  );
}

async function twoFiles(
  server: { host: string; port: number },
  { onFull, ranges }: Both,
  overrides: Overrides,
): Promise<Two> {
  await using stack = new AsyncDisposableStack();
  const folder = testFolder("fan");
  const config = configWith(
    configWith(parseConfig("", "test.yaml"), {
      redis: { host: server.host, port: server.port },
      targets: ["a", "b"].map((name, index) => ({
        name,
        ...ranges ? { partitions: ranges[index] } : {},
        kind: "sqlite" as const,
        path: `${folder}/${name}.db`,
        ...onFull === undefined ? {} : { on_full: onFull },
      })),
      streams: overrides?.streams ?? {}, // with ranges, their number must fit
      write_behind: { retry_base_ms: 5, retry_max_ms: 100, lease_seconds: 2 },
    }),
    overrides,
  );
  const redis = stack.use(await connectRedis(config));
  const a = stack.use(await openTarget(config, "a"));
  const b = stack.use(await openTarget(config, "b"));
  const owned = stack.move();
  return { redis, config, a, b, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Applies all events that are there to each target, one after the other. */
export async function drain(redis: RedisConnection, config: Config, ...targets: Target[]) {
  for (const target of targets) {
    await using sink = new RedisWriteBehind(redis, target, config, "session");
    await sink.drain();
  }
}

/** Inserts documents `d0`, `d1` …. */
export async function write(redis: RedisConnection, config: Config, from: number, count: number) {
  for (let index = from; index < from + count; index++) {
    await insertDocument(redis, config, "session", { n: index }, `d${index}`);
  }
}

/** A target holds what Redis holds. */
export async function equal(
  redis: RedisConnection,
  config: Config,
  target: Target,
  documents: number,
) {
  const report = await verify(redis, target, config, "session");
  assert.deepEqual([report.mismatches, report.counts.behind, report.documents], [
    [],
    0,
    documents,
  ]);
}

/** A target that does something before each call of a method of one of its parts. */
export function before(
  target: Target,
  part: "batches" | "identities" | "ownership" | "rows",
  method: string,
  first: () => Promise<void>,
): Target {
  const one = watched(target[part]!, method, first);
  return new Proxy(target, { get: (of, key) => key === part ? one : ownOf(of, key) });
}

/** The same of anything that has the method. */
export function watched<Thing extends object>(
  thing: Thing,
  method: string,
  first: () => Promise<void>,
): Thing {
  const call = async (...args: unknown[]) => {
    await first();
    return await (ownOf(thing, method) as (...args: unknown[]) => unknown)(...args);
  };
  return new Proxy(thing, { get: (of, key) => key === method ? call : ownOf(of, key) });
}

function ownOf(of: object, key: string | symbol): unknown {
  const value = Reflect.get(of, key);
  return typeof value === "function" ? value.bind(of) : value;
}

/** The first call only. */
export function once(run: () => Promise<void>): () => Promise<void> {
  let ran = false;
  return async () => {
    if (ran) return;
    ran = true;
    await run();
  };
}
