import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  type Config,
  configWith,
  ConnectionError,
  connectPostgres,
  connectRedis,
  consumePeriodically,
  DurabilityError,
  insertDocument,
  type Random,
  RedisRefusedError,
  UnknownOutcomeError,
  updateDocument,
} from "writebehind";
import { below } from "writebehind/core/random.ts";
import { type Pipeline, testPipeline } from "../support/pipeline.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";
import { Author } from "./author.ts";
import { assertExact, keepLedger } from "./ledger.ts";
import { NETWORK_FAULTS } from "./network_faults.ts";
import { withSeed } from "./seed.ts";

/** Short limits, so that a silent peer is given up soon. */
const LIMITS = {
  redis: { command_timeout_ms: 800 },
  zero_data_loss: { wait_timeout_ms: 200, aof_rewrite_timeout_secs: 0.2 },
  write_behind: { lease_seconds: 1, batch_size: 50, retry_max_ms: 100 },
};

/** Faults one after the other, at random; every kind comes. */
async function breakAtRandom(proxies: TcpProxy[], random: Random, ms: number): Promise<void> {
  const end = Date.now() + ms;
  const kinds = Object.keys(NETWORK_FAULTS);
  for (let turn = 0; Date.now() < end || turn < 2 * kinds.length; turn++) {
    const fault = NETWORK_FAULTS[kinds[turn % kinds.length]!]!;
    await fault(proxies[below(random, proxies.length)]!, random);
    await delay(150 * random());
  }
}

const proxyBefore = ({ host, port }: { host: string; port: number }) =>
  TcpProxy.start({ host, port });

/** A sink whose way to Redis and to PostgreSQL leads through proxies. */
async function distantSink(config: Config, redisPort: number, postgresPort: number) {
  await using stack = new AsyncDisposableStack();
  const own = configWith(config, {
    redis: { port: redisPort },
    postgresql: { port: postgresPort },
  });
  const redis = stack.use(await connectRedis(own));
  const pool = stack.use(await connectPostgres(own));
  const sink = stack.use(consumePeriodically(redis, pool, own, "session"));
  const owned = stack.move();
  return { sink, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Waits until the sink that went through it all has applied everything, by itself. */
const recovered = ({ redis, pool, config }: Pipeline) =>
  caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });

Deno.test("network faults at random between writers, Redis, sink and PostgreSQL: nothing is lost, nothing twice", () =>
  withSeed(async (random) => {
    await using pipeline = await testPipeline(LIMITS);
    const { config, servers } = pipeline;
    await keepLedger(pipeline);
    await using forWriters = await proxyBefore(servers.redis);
    await using forSink = await proxyBefore(servers.redis);
    await using toPostgres = await proxyBefore(servers.postgres);
    const distant = pipeline.with({ redis: { port: forWriters.port } });
    await using redis = await connectRedis(distant);
    await using away = await distantSink(config, forSink.port, toPostgres.port);
    const author = new Author(redis, distant, { random });
    const writing = author.start();
    try {
      await breakAtRandom([forWriters, forSink, toPostgres], random, 60_000);
    } finally {
      await writing.stop();
    }
    await recovered(pipeline);
    await waitFor(() => away.sink.lastError === null, { what: "the sink to be well" });
    await assertExact(pipeline, author);
    assert(author.events > 500, `${author.events} events`);
    assert(author.unknown > 0, "no outcome was unknown: the faults have hit nothing");
  }));

Deno.test("no call is sent twice: an unknown outcome without requestId is one event or none", () =>
  withSeed(async (random) => {
    await using pipeline = await testPipeline(LIMITS);
    await using proxy = await proxyBefore(pipeline.servers.redis);
    const config = pipeline.with({ redis: { port: proxy.port } });
    await using redis = await connectRedis(config);
    const [DONE, UNKNOWN, REFUSED] = ["done", "unknown", "refused"];
    const outcomes: string[] = [];
    const stop = new AbortController();
    const lane = async (id: string, options: { durability: "memory" | "fsync" }) => {
      await insertDocument(pipeline.redis, pipeline.config, "session", {}, id);
      while (!stop.signal.aborted) {
        const n = outcomes.push("") - 1;
        try {
          await updateDocument(redis, config, "session", id, { n }, options);
          outcomes[n] = DONE!;
        } catch (error) {
          if (error instanceof UnknownOutcomeError) outcomes[n] = UNKNOWN!;
          else if (error instanceof DurabilityError) outcomes[n] = DONE!;
          else if (error instanceof ConnectionError || error instanceof RedisRefusedError) {
            outcomes[n] = REFUSED!;
          } else throw error;
        }
        await delay(2);
      }
    };
    const lanes = Array.from(
      { length: 6 },
      (_, n) => lane(`d${n}`, { durability: n % 2 ? "fsync" : "memory" }),
    );
    await breakAtRandom([proxy], random, 10_000);
    const count = (outcome: string) => outcomes.filter((one) => one === outcome).length;
    // A slow machine gets through the faults with fewer calls.
    await waitFor(() => count(DONE!) > 500, {
      what: "500 calls that went well",
      deadlineMs: 30_000,
    });
    stop.abort();
    await Promise.all(lanes);

    const events = outcomes.map(() => 0);
    for (const [, fields] of await pipeline.redis.xrange("stream:session", "-", "+")) {
      const { n } = JSON.parse(fields[fields.indexOf("payload") + 1]!);
      if (n !== undefined) events[n]!++;
    }
    outcomes.forEach((outcome, n) => {
      const allowed = outcome === DONE ? [1] : outcome === UNKNOWN ? [0, 1] : [0];
      assert(allowed.includes(events[n]!), `call ${n}, ${outcome}, made ${events[n]} events`);
    });
    assert(count(UNKNOWN!) > 5, `${count(UNKNOWN!)} outcomes were unknown`);
  }));

Deno.test("a statement whose connection vanishes does not hold the sink up for longer than its lease", async () => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, config, servers, pool } = pipeline;
  await keepLedger(pipeline);
  await using toPostgres = await proxyBefore(servers.postgres);
  await using away = await distantSink(config, servers.redis.port, toPostgres.port);
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await waitFor(() => away.sink.status.events === 1, { what: "the first event" });
  const outside = await pool.connect();
  try {
    await outside.query("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE");
    await updateDocument(redis, config, "session", "a", { n: 2 });
    await waitFor(async () => {
      const { rows } = await pool.query(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%moved AS%'",
      );
      return rows.length > 0;
    }, { what: "the batch to wait for the lock" });
    toPostgres.vanish();
  } finally {
    await outside.query("COMMIT");
    outside.release();
  }
  // Through other connections, for the one that it used never says anything again.
  await updateDocument(redis, config, "session", "a", { n: 3 });
  await caughtUp(redis, pool, config, "session", { deadlineMs: 8000 });
  const { rows: [row] } = await pool.query("SELECT payload FROM sessions");
  assert.deepEqual(row.payload, { n: 3 });
});

Deno.test("all connections vanish: the sink claims its partition anew, by others", async () => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, config, servers, pool } = pipeline;
  await using forSink = await proxyBefore(servers.redis);
  await using toPostgres = await proxyBefore(servers.postgres);
  await using away = await distantSink(config, forSink.port, toPostgres.port);
  for (let n = 1; n < 3; n++) {
    await insertDocument(redis, config, "session", { n }, `d${n}`);
    await waitFor(() => away.sink.status.events === n, {
      what: `event ${n}`,
      deadlineMs: 30_000,
    });
    toPostgres.vanish();
    // Only Redis is heard to be lost.
    forSink.resetAll();
  }
  await insertDocument(redis, config, "session", { n: 3 }, "d3");
  await caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });
});

Deno.test("a read whose connection vanishes does not hold the sink up", async () => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, config, servers, pool } = pipeline;
  await using forSink = await proxyBefore(servers.redis);
  await using away = await distantSink(config, forSink.port, config.postgresql.port);
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await waitFor(() => away.sink.status.events === 1, { what: "the first event" });
  forSink.vanish();
  await updateDocument(redis, config, "session", "a", { n: 2 });
  await caughtUp(redis, pool, config, "session", { deadlineMs: 8000 });
});

Deno.test("a sink whose connections have all vanished ends when it is told to", async () => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, config, servers, pool } = pipeline;
  await using toRedis = await proxyBefore(servers.redis);
  await using toPostgres = await proxyBefore(servers.postgres);
  const away = pipeline.with({
    redis: { port: toRedis.port },
    postgresql: { port: toPostgres.port },
  });
  await using sink = startTask(["sink", "--config", await configFile(LIMITS)], environmentOf(away));
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });
  toPostgres.vanish();
  toRedis.vanish();
  sink.kill("SIGTERM");
  const ended = await Promise.race([sink.status, delay(30_000, null, { ref: false })]);
  assert(ended !== null, sink.output());
  assert.match(sink.output(), /stopped: /);
});
