/** Arguments that cannot be meant, and connections that are closed: one error of ours that says so, from every call. */

import assert from "node:assert/strict";
import * as wb from "writebehind";
import { testPipeline } from "../support/pipeline.ts";

/** What each call takes: a letter of REQUIRED for each argument. */
const CALLS: Record<string, string> = {
  addTarget: "rtceo",
  adopt: "rpceo",
  caughtUp: "rpceo",
  configWith: "co",
  connectPostgres: "c",
  connectRedis: "co",
  createSearchIndex: "rceo",
  createTable: "pce",
  deleteDocument: "rceso",
  describeServers: "v",
  discardDeadLetters: "pceoo",
  documentKey: "ces",
  dummyDataWorker: "rceo",
  entityConfig: "ce",
  generateDocId: "ss",
  insertDocument: "rceoso",
  listTargets: "rce",
  loadMetrics: "r",
  mendStreams: "rpceo",
  migrateColumns: "pceo",
  openTarget: "c",
  parseConfig: "ss",
  pauseTarget: "rces",
  randomSearchQueries: "rcen",
  readByIds: "rcelo",
  readCache: "rce",
  readDeadLetter: "pn",
  readFigures: "rpce",
  rebuild: "rpceo",
  removeTarget: "rceso",
  repairRedis: "rpcelo",
  repairTarget: "rcelo",
  replayDeadLetters: "rpceoo",
  resumeTarget: "rces",
  search: "rceoo",
  searchRaw: "rces",
  serverOverrides: "v",
  streamIdOf: "b",
  updateDocument: "rcesoo",
  verify: "rpceo",
  versionOf: "s",
  RedisWriteBehind: "rpce",
  Sampler: "rpco",
  Sinks: "rco",
  consumePeriodically: "rpce",
};

/** Of no kind that any of these arguments has. */
const BAD: [value: unknown, got: RegExp][] = [
  [null, /got (null|the text null|undefined)|null/],
  [Promise.resolve(1), /a promise: await it|promise|Promise/i],
  [Symbol("s"), /symbol|Symbol/],
  [() => {}, /function|=>/],
];

type Call = (...args: unknown[]) => unknown;

/** What a call fails with; `null` where it does not. */
async function failure(name: string, args: unknown[]): Promise<Error | null> {
  const call = (wb as unknown as Record<string, Call | (new (...args: unknown[]) => unknown)>)[
    name
  ]!;
  try {
    if (/^[A-Z]/.test(name)) new (call as new (...args: unknown[]) => unknown)(...args);
    else await (call as Call)(...args);
    return null;
  } catch (error) {
    return error as Error;
  }
}

Deno.test("what cannot be meant is refused by one error that names it", async (t) => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await using target = await wb.openTarget(config);
  const GOOD: Record<string, unknown> = {
    r: redis,
    t: target,
    p: pool,
    c: config,
    e: "session",
    o: {},
    s: "x",
    l: [],
    n: 1,
    b: 1n,
    v: {
      redisUrl: "redis://h",
      databaseUrl: "postgresql://u@h/d",
      source: { redis: "environment", database: "environment" },
    },
  };
  for (const [name, kinds] of Object.entries(CALLS)) {
    await t.step(name, async () => {
      const good = [...kinds].map((kind) => GOOD[kind]);
      for (const [at, kind] of [...kinds].entries()) {
        for (const [bad, got] of BAD) {
          const error = await failure(name, good.with(at, bad));
          const what = `${name}, argument ${at} (${kind}) ${String(bad)}`;
          assert(error !== null, what);
          assert(error instanceof wb.WriteBehindError, `${what}: ${error.stack}`);
          assert.match(error.message, got, what);
          if (error instanceof wb.ArgumentError) {
            assert.match(error.message, /^\w+: \w+: expected (a|an|text|servers)\b.*, got /);
          }
        }
      }
    });
  }
  await t.step("numbers, signals and callbacks among options", async () => {
    const cases: [name: string, options: object][] = [
      ["caughtUp", { deadlineMs: NaN }],
      ["caughtUp", { deadlineMs: "5" }],
      ["caughtUp", { signal: 1 }],
      ["verify", { settleMs: NaN }],
      ["verify", { signal: {} }],
      ["verify", { onProgress: 1 }],
      ["rebuild", { signal: "x" }],
    ];
    for (const [name, options] of cases) {
      const error = await failure(name, [redis, pool, config, "session", options]);
      assert(error instanceof wb.ArgumentError, `${name}: ${error}`);
      assert.match(error.message, new RegExp(`^${name}: ${Object.keys(options)[0]}: expected`));
    }
  });
  await t.step("signals and listeners of what runs", async () => {
    await using sink = new wb.RedisWriteBehind(redis, pool, config, "session");
    await using sampler = new wb.Sampler(redis, pool, config);
    await using sinks = new wb.Sinks(redis, config);
    const bad = 5 as never;
    const calls: Record<string, () => unknown> = {
      drain: () => sink.drain(bad),
      on: () => sink.events.on("applied", bad),
      onAll: () => sink.events.onAll(bad),
      onSample: () => sampler.onSample(bad),
      until: () => sampler.until(bad, "it", 10),
      onOpened: () => sinks.onOpened(bad),
    };
    for (const [name, call] of Object.entries(calls)) {
      // deno-lint-ignore require-await -- some of them throw at once
      await assert.rejects(async () => call(), (error: Error) => {
        assert(error instanceof wb.ArgumentError, `${name}: ${error}`);
        return error.message.startsWith(`${name}: `);
      });
    }
  });
  await t.step("what is searched for", async () => {
    const filters: object[] = [
      { text: { user_id: 5 } },
      { tag: { device_type: [null] } },
      { numeric: { age: "x" } },
      { numeric: { age: [1] } },
      { numeric: { age: [1, NaN] } },
    ];
    const fields = [
      { name: "user_id", type: "TEXT" },
      { name: "device_type", type: "TAG" },
      { name: "age", type: "NUMERIC" },
    ] as const;
    const searched = pipeline.with({ search_index: { fields: [...fields] } });
    for (const filter of filters) {
      const error = await failure("search", [redis, searched, "session", filter]);
      assert(error instanceof wb.SearchError, `${Deno.inspect(filter)}: ${error}`);
      assert.match(error.message, /^Cannot search by \w+: expected .*, got /);
    }
    const returns = { returns: 5 };
    const error = await failure("search", [redis, searched, "session", {}, returns]);
    assert(error instanceof wb.ArgumentError, String(error));
  });
  assert.equal(await redis.exists("session:x", "stream:session"), 0);
});

Deno.test("a connection that is closed says so in every call", async () => {
  await using pipeline = await testPipeline();
  const { config } = pipeline;
  const closed = await wb.connectRedis(config);
  await closed.close();
  const ended = await wb.connectPostgres(config);
  await ended.end();
  for (const [name, kinds] of Object.entries(CALLS)) {
    if (
      !/^r?[pt]?ce[os]*$/.test(kinds) ||
      /^[A-Z]|consume|removeTarget|dummyData|randomSearch/.test(name)
    ) continue;
    if (/^\w+Document$/.test(name)) continue; // told as before: ../documents/write_test.ts
    await using target = await wb.openTarget(config);
    await target.close();
    const others = { e: "session", o: {}, s: "postgresql", c: config };
    const given = (redis: unknown, pool: unknown) =>
      [...kinds].map((kind) =>
        ({ ...others, r: redis, p: pool, t: target } as Record<string, unknown>)[kind]
      );
    for (const [redis, pool] of [[closed, pipeline.pool], [pipeline.redis, ended]]) {
      const isGiven = kinds.includes(redis === closed ? "r" : "p");
      if (!isGiven) continue;
      const args = given(redis, pool);
      if (name === "caughtUp") args[4] = { deadlineMs: 100 };
      if (name === "search" || name === "discardDeadLetters") args[args.length - 2] = {};
      const error = await failure(name, args);
      assert(error instanceof wb.WriteBehindError, `${name}: ${error?.stack}`);
      assert.match(error.message, /is closed|was ended before|Not connected/, name);
    }
  }
  // A pool that was ended does not come back: nobody waits for it.
  const sink = new wb.RedisWriteBehind(pipeline.redis, ended, config, "session");
  await assert.rejects(sink.drain(), /was ended before/);
  await assert.rejects(wb.caughtUp(pipeline.redis, ended, config, "session"), /was ended before/);
});
