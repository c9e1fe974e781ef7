import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  connectRedis,
  type DeepPartial,
  insertDocument,
  openTarget,
  type RedisConnection,
  RedisWriteBehind,
  type Sample,
  Sampler,
} from "writebehind";
import { Counters } from "writebehind/redis/counters.ts";
import { emptyRedis, server } from "../support/own_redis.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { testDatabase, testFolder, testPostgres, waitFor } from "../support/servers.ts";

/** An empty Redis, a connection to it, and an empty target. */
async function empty(changes: DeepPartial<Config> = {}) {
  await using stack = new AsyncDisposableStack();
  const path = testFolder("rows");
  const { redis, config } = stack.use(
    await emptyRedis(
      { metrics: { sample_interval_ms: 10 }, targets: [{ name: "local", kind: "sqlite", path }] },
      changes,
    ),
  );
  const target = stack.use(await openTarget(config));
  const owned = stack.move();
  return { redis, config, target, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** What a sink reports of a partition. */
const gaugeOf = (p99: number, p50 = p99, age = 0) => ({
  freshness_p50_ms: p50,
  freshness_p99_ms: p99,
  at: Date.now() - age,
});

async function insertMany(redis: RedisConnection, config: Config, count: number) {
  for (let made = 0; made < count; made++) {
    await insertDocument(redis, config, "session", { made });
  }
}

Deno.test("an empty Redis gives a sample of zeros", async () => {
  await using own = await empty();
  const { at, ...sample } = await new Sampler(own.redis, own.target, own.config).sample();
  assert(Math.abs(at.getTime() - Date.now()) < 1000);
  assert.deepEqual(sample, {
    ...{ redis_success: 0, redis_fail: 0, redis_retry: 0, postgres_success: 0, postgres_fail: 0 },
    ...{ written: 0, applied: 0, parked: 0, lagEvents: 0, lagSeconds: 0 },
    ...{ writtenPerSecond: 0, appliedPerSecond: 0 },
    ...{ freshnessP50Ms: null, freshnessP99Ms: null, owner: null, targetAnswers: true },
  });
});

Deno.test("counters are events since the first sample, of this process and of others", async () => {
  await using own = await empty();
  const { redis, config, target } = own;
  await redis.set("metrics:redis_success", 1000);
  const other = new Counters(config, redis);
  const sampler = new Sampler(redis, target, config, { flush: [() => other.flush()] });
  await sampler.sample();
  await insertMany(redis, config, 30);
  await assert.rejects(insertDocument(redis, config, "session", {}, ""));
  other.count("postgres_success", 20, "x");
  other.count("redis_retry", 3, "x");
  await redis.incrby("metrics:postgres_fail", 2);
  const sample = await sampler.sample();
  const { redis_success, redis_fail, redis_retry, postgres_success, postgres_fail } = sample;
  assert.deepEqual([redis_success, redis_fail, redis_retry, postgres_success, postgres_fail], [
    ...[30, 1, 3, 20, 2],
  ]);
  assert.equal((await sampler.sample()).redis_success, 30);
  // Counts go on where Redis was emptied, never back.
  await redis.flushall();
  await insertMany(redis, config, 5);
  assert.equal((await sampler.sample()).redis_success, 35);
});

Deno.test("written, applied and lag are those of stream and target; rates their differences", async () => {
  await using own = await empty();
  const { redis, config, target } = own;
  const sampler = new Sampler(redis, target, config);
  const drain = async () => {
    await using sink = new RedisWriteBehind(redis, target, config, "session");
    await sink.drain();
  };
  const seen = ({ written, applied, lagEvents }: Sample) => [written, applied, lagEvents];
  await insertMany(redis, config, 10);
  const first = await sampler.sample();
  assert.deepEqual(seen(first), [10, 0, 10], "nothing is drained yet");
  await drain();
  await insertMany(redis, config, 4);
  const second = await sampler.sample();
  assert.deepEqual(seen(second), [14, 10, 4]);
  const seconds = (second.at.getTime() - first.at.getTime()) / 1000;
  assert(Math.abs(second.writtenPerSecond * seconds - 4) < 1e-6);
  assert(Math.abs(second.appliedPerSecond * seconds - 10) < 1e-6);
  await drain();
  const drained = await sampler.sample();
  assert.deepEqual([...seen(drained), drained.lagSeconds], [14, 14, 0, 0]);
  // What was lost with Redis is lost; no figure goes below zero by it.
  await insertMany(redis, config, 6);
  await sampler.sample();
  await redis.flushall();
  const emptied = await sampler.sample();
  assert.deepEqual(seen(emptied), [14, 14, 0]);
  assert.deepEqual([emptied.writtenPerSecond, emptied.appliedPerSecond], [0, 0]);
});

Deno.test("while the target is away or hangs, writes are seen and what it has applied stays", async () => {
  await using postgres = await testPostgres();
  await using database = await testDatabase(postgres);
  await using proxy = await TcpProxy.start({ host: postgres.host, port: postgres.port });
  const { user, password } = postgres;
  await using own = await empty({
    targets: [{ name: "postgresql", kind: "postgresql" }],
    postgresql: { host: "127.0.0.1", port: proxy.port, user, password, database: database.name },
  });
  const { redis, config, target } = own;
  const sampler = new Sampler(redis, target, config);
  await insertMany(redis, config, 3);
  {
    await using sink = new RedisWriteBehind(redis, target, config, "session");
    await sink.drain();
  }
  const seen = async () => {
    const { written, applied, targetAnswers } = await sampler.sample();
    return [written, applied, targetAnswers];
  };
  assert.deepEqual(await seen(), [3, 3, true]);
  await proxy.refuse();
  await insertMany(redis, config, 2);
  assert.deepEqual(await seen(), [5, 3, false]);
  await proxy.heal();
  await waitFor(async () => (await seen()).at(-1), { what: "the target's answer" });
  proxy.halfOpen();
  await insertMany(redis, config, 2);
  const began = performance.now();
  assert.deepEqual(await seen(), [7, 3, false]);
  assert.deepEqual(await seen(), [7, 3, false]);
  assert(performance.now() - began < 3000, "it is waited for once, and not for long");
  await proxy.heal();
  await waitFor(async () => (await seen()).at(-1), { what: "the target's answer" });
});

for (const keep_seconds of [0, 60]) {
  Deno.test(`a target that is away for who samples alone: what its sinks tell counts, with ${keep_seconds} s kept`, async () => {
    await using postgres = await testPostgres();
    await using database = await testDatabase(postgres);
    await using proxy = await TcpProxy.start({ host: postgres.host, port: postgres.port });
    const { host, port, user, password } = postgres;
    await using own = await empty({
      streams: { keep_seconds },
      targets: [{ name: "postgresql", kind: "postgresql" }],
      postgresql: { host: "127.0.0.1", port: proxy.port, user, password, database: database.name },
    });
    const { redis, config, target } = own;
    const sinks = configWith(config, { postgresql: { host, port } });
    await using theirs = await openTarget(sinks);
    const drain = async () => {
      await using sink = new RedisWriteBehind(redis, theirs, sinks, "session");
      await sink.drain();
    };
    const sampler = new Sampler(redis, target, config);
    const seen = async () => {
      const { written, applied, lagEvents, targetAnswers } = await sampler.sample();
      return [written, applied, lagEvents, targetAnswers];
    };
    await insertMany(redis, config, 3);
    await drain();
    await insertMany(redis, config, 2);
    assert.deepEqual(await seen(), [5, 3, 2, true]);
    await drain(); // after the last look at it
    await proxy.refuse();
    assert.deepEqual(await seen(), [5, 5, 0, false]);
    await insertMany(redis, config, 4);
    assert.deepEqual(await seen(), [9, 5, 4, false]);
    await drain();
    assert.deepEqual(await seen(), [9, 9, 0, false]);
    const { appliedPerSecond, lagSeconds } = sampler.samples.at(-1)!;
    assert(appliedPerSecond > 0 && lagSeconds === 0);
    await insertMany(redis, config, 1);
    assert.deepEqual(await seen(), [10, 9, 1, false]);
    await proxy.heal();
    await waitFor(async () => (await seen()).at(-1), { what: "the target's answer" });
    assert.deepEqual(await seen(), [10, 9, 1, true]);
  });
}

Deno.test("lag in seconds is the age of the first event that the target does not have", async () => {
  await using own = await empty();
  const { redis, config, target } = own;
  const [seconds] = await redis.time();
  for (const age of [100, 40, 5]) {
    await redis.xadd("stream:session", `${(Number(seconds) - age) * 1000}-0`, "doc_id", "d");
  }
  const sampler = new Sampler(redis, target, config);
  const near = (sample: Sample, age: number) =>
    assert(sample.lagSeconds >= age && sample.lagSeconds < age + 3, `${sample.lagSeconds} s`);
  near(await sampler.sample(), 100);
  // As the target holds the first of them.
  await redis.xtrim("stream:session", "MAXLEN", 2);
  near(await sampler.sample(), 40);
});

Deno.test("partitions and entities are added up, seconds and freshness are the worst of them", async () => {
  await using own = await empty({
    streams: { partitions: 2 },
    entities: [
      { name: "session", table: "sessions", index_name: "i1" },
      { name: "user", table: "users", index_name: "i2" },
    ],
  });
  const { redis, config, target } = own;
  const [seconds] = await redis.time();
  const add = (stream: string, age: number) =>
    redis.xadd(stream, `${(Number(seconds) - age) * 1000}-*`, "doc_id", "d");
  await add("stream:{session-0}", 10);
  await add("stream:{session-1}", 50);
  await add("stream:{session-1}", 20);
  await add("stream:{user-0}", 90);
  const gauge = (stream: string, p50: number, p99: number, age: number) =>
    redis.hset(`metrics:sink:${stream}:local`, gaugeOf(p99, p50, age));
  await gauge("stream:{session-0}", 3, 40, 0);
  await gauge("stream:{session-1}", 5, 30, 1000);
  await gauge("stream:{user-0}", 900, 900, 5500);
  const sessions = await new Sampler(redis, target, config, { entity: "session" }).sample();
  assert.equal(sessions.lagEvents, 3);
  assert(sessions.lagSeconds >= 50 && sessions.lagSeconds < 53);
  assert.deepEqual([sessions.freshnessP50Ms, sessions.freshnessP99Ms], [5, 40]);
  const all = await new Sampler(redis, target, config).sample();
  assert.equal(all.lagEvents, 4);
  assert(all.lagSeconds >= 90);
  // A sink that is silent for over 5 s applies nothing now.
  assert.equal(all.freshnessP99Ms, 40);
  const users = await new Sampler(redis, target, config, { entity: "user" }).sample();
  assert.equal(users.freshnessP50Ms, null);
  assert.throws(() => new Sampler(redis, target, config, { entity: "nobody" }), ConfigError);
});

Deno.test("a sample takes two round trips to Redis, whatever there is to see", async () => {
  await using own = await empty({ streams: { partitions: 8 } });
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await insertMany(redis, config, 50);
  const sampler = new Sampler(redis, own.target, config);
  await sampler.sample();
  const DELAY_MS = 60; // each way
  proxy.delay(DELAY_MS);
  const began = performance.now();
  await sampler.sample();
  const trips = (performance.now() - began) / (2 * DELAY_MS);
  assert(trips >= 1 && trips < 2.9, `${trips} round trips`);
});

Deno.test("at most max_samples are kept: the first, all of the newest, and no peak is lost", async () => {
  await using own = await empty({ metrics: { max_samples: 20 } });
  const { redis, config, target } = own;
  const sampler = new Sampler(redis, target, config);
  const first = await sampler.sample();
  const taken: Sample[] = [];
  for (let round = 1; round <= 200; round++) {
    await redis.xadd("stream:session", "*", "doc_id", "d");
    if (round === 37) await redis.hset("metrics:sink:stream:session:local", gaugeOf(900));
    taken.push({ ...await sampler.sample() });
    if (round === 37) await redis.del("metrics:sink:stream:session:local");
    assert(sampler.samples.length <= 20);
  }
  const { samples } = sampler;
  assert(samples.length >= 10);
  assert.equal(samples[0], first);
  assert.deepEqual(samples.slice(-5), taken.slice(-5));
  assert(samples.some(({ freshnessP99Ms }) => freshnessP99Ms === 900), "the peak is lost");
  for (const [index, sample] of samples.entries()) {
    if (index === 0) continue;
    const before = samples[index - 1]!;
    assert(sample.written > before.written);
    // Rates of what is left tell all that was written.
    const seconds = Math.max(1, sample.at.getTime() - before.at.getTime()) / 1000;
    const events = sample.writtenPerSecond * seconds;
    assert(Math.abs(events - (sample.written - before.written)) < 1e-6);
  }
  assert.equal(samples.at(-1)!.written, 200);

  for (const max_samples of [1, 2, 3]) {
    const small = new Sampler(redis, target, configWith(config, { metrics: { max_samples } }));
    for (let round = 0; round < 10; round++) {
      const last = await small.sample();
      assert(small.samples.length <= max_samples);
      assert.equal(small.samples.at(-1)!.at, last.at);
    }
  }
});

Deno.test("start samples at the interval until stop; starting twice does not double it", async () => {
  await using own = await empty({ metrics: { sample_interval_ms: 100 } });
  const sampler = new Sampler(own.redis, own.target, own.config);
  const began = performance.now();
  sampler.start();
  sampler.start();
  await waitFor(() => sampler.samples.length >= 8, { what: "samples" });
  await sampler.stop();
  const intervals = (performance.now() - began) / 100;
  const count = sampler.samples.length;
  // One more at the end, when everything else may have stopped.
  assert(count <= intervals + 2.5, `${count} samples in ${intervals} intervals`);
  assert.equal(sampler.lastError, null);
  // Stopped is stopped: what the clock would have done meanwhile is seen by the next start.
  sampler.start();
  await waitFor(() => sampler.samples.length > count, { what: "samples after a second start" });
  assert(sampler.samples.length <= count + 2);
  await sampler[Symbol.asyncDispose]();
});

Deno.test("stop takes a last sample, which tells how everything ended", async () => {
  await using own = await empty({ metrics: { sample_interval_ms: 60_000 } });
  const { redis, config, target } = own;
  const sampler = new Sampler(redis, target, config);
  sampler.start();
  await waitFor(() => sampler.samples.length === 1, { what: "the first sample" });
  await insertMany(redis, config, 2);
  await sampler.stop();
  const ends = sampler.samples.slice(1).map(({ written, writtenPerSecond }) => [
    written,
    writtenPerSecond > 0,
  ]);
  assert.deepEqual(ends, [[2, true], [2, false]], "what came, and that nothing comes any more");
  await sampler.stop();
  assert.equal(sampler.samples.length, 3, "once");
});

Deno.test("listeners get each sample until they leave; one that throws harms nobody", async () => {
  await using own = await empty();
  await using sampler = new Sampler(own.redis, own.target, own.config);
  const seen: Sample[] = [];
  sampler.onSample(() => {
    throw new Error("the listener's own");
  });
  const leave = sampler.onSample((sample) => seen.push(sample));
  const first = await sampler.sample();
  assert.match(sampler.lastError!.message, /the listener's own/);
  leave();
  await sampler.sample();
  assert.deepEqual(seen, [first]);
});

Deno.test("until ends with what its condition throws, at once", async () => {
  await using own = await empty();
  await using sampler = new Sampler(own.redis, own.target, own.config);
  const fails = () => {
    throw new Error("the condition's own");
  };
  const waiting = assert.rejects(sampler.until(fails, "nothing", 5000), /the condition's own/);
  await sampler.sample();
  await waiting;
});

Deno.test("while Redis is away ticks go on, with lastError, and samples come again after it", async () => {
  await using own = await empty();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await using sampler = new Sampler(redis, own.target, config);
  sampler.start();
  await waitFor(() => sampler.samples.length > 2, { what: "samples" });
  await proxy.refuse();
  await waitFor(() => sampler.lastError, { what: "the error" });
  await assert.rejects(sampler.sample());
  const count = sampler.samples.length;
  await proxy.heal();
  await waitFor(() => sampler.samples.length > count, { what: "samples again" });
  assert.equal(sampler.lastError, null);
});

Deno.test("a key of another type is an error, not a wrong number", async () => {
  await using own = await empty();
  await own.redis.sadd("stream:session", "x");
  const sampler = new Sampler(own.redis, own.target, own.config);
  await assert.rejects(sampler.sample(), /WRONGTYPE/);
  assert.match(sampler.lastError!.message, /WRONGTYPE/);
  assert.equal(sampler.samples.length, 0);
});

Deno.test("the timer keeps no process alive", async () => {
  await using _own = await empty();
  const root = new URL("../../", import.meta.url);
  const script = `
    import { connectRedis } from "./lib/redis/connect.ts";
    import { configWith, parseConfig } from "./lib/config/load.ts";
    import { Sampler } from "./lib/metrics/sampler.ts";
    import { openTarget } from "./lib/targets/open.ts";
    const config = configWith(parseConfig("", "f"), {
      redis: { host: ${JSON.stringify(server.host)}, port: ${server.port} },
      metrics: { sample_interval_ms: 60000 },
      targets: [{ name: "local", kind: "sqlite", path: ${JSON.stringify(testFolder("rows"))} }],
    });
    const redis = await connectRedis(config);
    const target = await openTarget(config);
    const sampler = new Sampler(redis, target, config);
    sampler.onSample(() => {
      redis.disconnect();
      void target.close();
    });
    sampler.start();`;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["eval", script],
    cwd: root,
    stdout: "null",
    stderr: "piped",
    signal: AbortSignal.timeout(20_000),
  });
  const { code, stderr } = await process.output();
  assert.equal(code, 0, `killed after 20 s, or: ${new TextDecoder().decode(stderr)}`);
});
