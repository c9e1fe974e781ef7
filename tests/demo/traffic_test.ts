import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  connectRedis,
  type DeepPartial,
  dummyDataWorker,
  generateDummySession,
  readByIds,
  seededRandom,
} from "writebehind";
import { emptyRedis, server } from "../support/own_redis.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { waitFor } from "../support/servers.ts";

/** An empty Redis and a connection to it. */
function empty(changes: DeepPartial<Config> = {}) {
  return emptyRedis({ dummy_data: { num_records: 300, concurrency: 8 } }, changes);
}

const CREATES = { create_pct: 1, update_pct: 0, delete_pct: 0 };

/** The event types of the stream, and the payloads of its inserts. */
async function written(redis: Awaited<ReturnType<typeof connectRedis>>) {
  const entries = await redis.xrange("stream:session", "-", "+");
  const types = { insert: 0, update: 0, delete: 0 };
  const inserts: unknown[] = [];
  for (const [, fields] of entries) {
    const type = fields[fields.indexOf("event_type") + 1] as keyof typeof types;
    types[type]++;
    if (type === "insert") inserts.push(JSON.parse(fields.at(-1)!));
  }
  return { types, inserts };
}

Deno.test("the report says what is in Redis, the shares are the configuration's", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const report = await dummyDataWorker(redis, config, "session", { num_records: 2000 });
  const { types } = await written(redis);
  assert.deepEqual(types, {
    insert: report.inserted,
    update: report.updated,
    delete: report.deleted,
  });
  assert.equal(report.inserted + report.updated + report.deleted, 2000);
  assert.deepEqual([report.failed, report.backpressure, report.unconfirmed], [0, 0, 0]);
  assert.deepEqual(report.reasons, {});
  assert(Math.abs(report.updated - 600) < 100 && Math.abs(report.deleted - 200) < 70);
  assert.equal((await redis.keys("session:*")).length, report.live);
  assert.equal(report.live, report.inserted - report.deleted);
  assert(report.latencyMs.p50 > 0 && report.latencyMs.p50 <= report.latencyMs.p99);
  assert(Math.abs(report.perSecond - 2000 / report.seconds) < 1);
});

Deno.test("the same seed makes the same documents, whatever the concurrency", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const random = seededRandom(42);
  const wanted = Array.from({ length: 50 }, () => JSON.stringify(generateDummySession(random)));
  for (const concurrency of [1, 16]) {
    await redis.flushall();
    await dummyDataWorker(redis, config, "session", {
      ...CREATES,
      num_records: 50,
      seed: 42,
      concurrency,
    });
    const { inserts } = await written(redis);
    assert.deepEqual(inserts.map((document) => JSON.stringify(document)).sort(), wanted.sort());
  }
});

Deno.test("an update is a heartbeat of the session: it adds no field", async () => {
  await using own = await empty();
  await dummyDataWorker(own.redis, own.config, "session", {
    create_pct: 0.5,
    update_pct: 0.5,
    delete_pct: 0,
  });
  const entries = await own.redis.xrange("stream:session", "-", "+");
  const updates = entries.filter(([, fields]) => fields.includes("update"))
    .map(([, fields]) => JSON.parse(fields.at(-1)!));
  assert(updates.length > 50);
  const keys = Object.keys(generateDummySession()).sort();
  for (const document of updates) {
    assert.deepEqual(Object.keys(document).sort(), keys);
    assert.deepEqual(document.device_logs, [{ ts: document.last_activity, evt: "heartbeat" }]);
    assert(document.last_activity > document.login_time);
  }
});

Deno.test("updates and deletes never meet: nothing fails where few documents are many lanes'", async () => {
  await using own = await empty();
  const report = await dummyDataWorker(own.redis, own.config, "session", {
    num_records: 2000,
    create_pct: 0.1,
    update_pct: 0.45,
    delete_pct: 0.45,
    concurrency: 64,
  });
  assert.equal(report.failed, 0, JSON.stringify(report.reasons));
  assert.equal((await own.redis.keys("session:*")).length, report.live);
});

Deno.test("a rate is kept, in all and without bursts", async () => {
  await using own = await empty();
  const report = await dummyDataWorker(own.redis, own.config, "session", {
    ...CREATES,
    rate: 400,
    num_records: 400,
  });
  assert(report.seconds > 0.95 && report.seconds < 1.5, `${report.seconds} s`);
  const times = (await own.redis.xrange("stream:session", "-", "+"))
    .map(([id]) => Number(id.split("-")[0]));
  let most = 0;
  for (const [index, time] of times.entries()) {
    most = Math.max(most, times.slice(index).filter((other) => other < time + 250).length);
  }
  assert(most <= 200, `${most} documents within 250 ms, at 400 a second`);
});

Deno.test("after a stall no more than one second's worth is made good", async () => {
  await using own = await empty({ redis: { command_timeout_ms: 10_000 } });
  const { redis, config } = own;
  await using admin = await connectRedis(config);
  const rate = 100;
  const running = dummyDataWorker(redis, config, "session", {
    ...CREATES,
    rate,
    duration_seconds: 4,
    concurrency: 4,
  });
  await waitFor(async () => await admin.xlen("stream:session") > 10, { what: "traffic" });
  await admin.call("CLIENT", "PAUSE", "2000", "WRITE");
  const report = await running;
  // 4 s at 100 a second are 400; of the 2 s of stall 1 s is lost.
  assert(report.inserted > 270 && report.inserted < 330, `${report.inserted} documents`);
});

Deno.test("a duration ends it, whatever num_records is", async () => {
  await using own = await empty();
  for (const num_records of [0, 1, 1e9]) {
    const report = await dummyDataWorker(own.redis, own.config, "session", {
      num_records,
      rate: 100,
      duration_seconds: 0.5,
    });
    assert(report.seconds > 0.45 && report.seconds < 1.5, `${report.seconds} s`);
    assert(report.inserted > 10, `${report.inserted}`);
  }
});

Deno.test("a signal stops it at once, with the report of what is done", async () => {
  await using own = await empty();
  const { redis, config } = own;
  const controller = new AbortController();
  let progress = 0;
  const running = dummyDataWorker(redis, config, "session", {
    num_records: 1e9,
    signal: controller.signal,
    onProgress: (report) => {
      assert(report.inserted >= progress);
      progress = report.inserted;
      if (progress > 100) controller.abort();
    },
  });
  const report = await running;
  assert.equal(redis.callsInFlight, 0);
  const { types } = await written(redis);
  assert.equal(types.insert, report.inserted);
  assert.equal(progress, report.inserted, "the last progress is the report");
  assert.equal(report.failed, 0);

  const began = performance.now();
  const slow = new AbortController();
  const waiting = dummyDataWorker(redis, config, "session", { rate: 0.01, signal: slow.signal });
  slow.abort();
  await waiting;
  assert(performance.now() - began < 1000);
  const none = await dummyDataWorker(redis, config, "session", { signal: AbortSignal.abort() });
  assert.equal(none.inserted, 0);
});

Deno.test("backpressure slows it down, until there is room again", async () => {
  await using own = await empty({ streams: { max_events: 100 } });
  const { redis, config } = own;
  await using admin = await connectRedis(config);
  const running = dummyDataWorker(redis, config, "session", { num_records: 150 });
  await waitFor(async () => {
    await redis.counters.flush();
    return Number(await admin.get("metrics:redis_retry")) >= 8;
  }, { what: "the retries" });
  await redis.counters.flush();
  assert.equal(await admin.xlen("stream:session"), 100);
  await admin.xtrim("stream:session", "MAXLEN", 0);
  const report = await running;
  assert.equal(report.inserted + report.updated + report.deleted, 150);
  assert.equal(report.failed, 0);
  assert(report.backpressure >= 8);
  assert.deepEqual(report.reasons, { "max_events is reached": report.backpressure });
  await redis.counters.flush();
  assert.equal(Number(await admin.get("metrics:redis_retry")), report.backpressure);
  assert.equal((await redis.keys("session:*")).length, report.live);
});

Deno.test("a signal ends the waiting for room, and nobody has failed", async () => {
  await using own = await empty({ streams: { max_events: 10 } });
  const controller = new AbortController();
  const report = await dummyDataWorker(own.redis, own.config, "session", {
    signal: controller.signal,
    onProgress: ({ backpressure }) => backpressure > 20 && controller.abort(),
    num_records: 1e9,
  });
  assert(report.backpressure > 20 && report.seconds < 10);
  assert.deepEqual([report.failed, report.inserted + report.updated + report.deleted], [0, 10]);
});

Deno.test("other failures are counted with their reason, one line for all ids, and it goes on", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await redis.sadd("stream:session", "not a stream");
  const report = await dummyDataWorker(redis, config, "session", { num_records: 100 });
  assert.deepEqual([report.failed, report.inserted, report.live], [100, 0, 0]);
  assert.deepEqual(Object.values(report.reasons), [100]);
  assert.match(Object.keys(report.reasons)[0]!, /Cannot insert <id>: the key stream:session/);
});

Deno.test("a document that somebody else removed is left alone after one failure", async () => {
  await using own = await empty();
  const { redis, config } = own;
  let removed = "";
  const report = await dummyDataWorker(redis, config, "session", {
    num_records: 400,
    rate: 400,
    create_pct: 0.02,
    update_pct: 0.98,
    delete_pct: 0,
    concurrency: 1,
    onProgress: () => {
      if (removed !== "") return;
      removed = "all";
      void redis.eval(
        "for _, k in ipairs(redis.call('KEYS', 'session:*')) do redis.call('DEL', k) end",
        0,
      );
    },
  });
  const missing = report.reasons[
    "Cannot update <id>: there is no such document; insert it first"
  ];
  assert(missing !== undefined && missing <= report.inserted, JSON.stringify(report.reasons));
  assert.equal(report.failed, missing);
});

for (const requestIds of [false, true]) {
  const name = requestIds
    ? "with request ids no lost reply stays unknown"
    : "a lost reply is counted as a failure";
  Deno.test(`${name}, and each document is written once`, async () => {
    await using own = await empty();
    await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
    const config = configWith(own.config, { redis: { port: proxy.port } });
    await using redis = await connectRedis(config);
    let cuts = 0;
    const report = await dummyDataWorker(redis, config, "session", {
      num_records: 1500,
      rate: 1000,
      requestIds,
      onProgress: () => {
        if (cuts++ < 3) proxy.cutReplyAfter(50);
      },
    });
    const { types } = await written(own.redis);
    const inserts = await own.redis.xrange("stream:session", "-", "+");
    const ids = inserts.filter(([, fields]) => fields.includes("insert"))
      .map(([, fields]) => fields[fields.indexOf("doc_id") + 1]!);
    assert.equal(new Set(ids).size, ids.length, "a document was inserted twice");
    const done = report.inserted + report.updated + report.deleted;
    assert.equal(done + report.failed, 1500);
    assert(Object.keys(report.reasons).some((reason) => /outcome is unknown/.test(reason)));
    if (requestIds) {
      // While there was no connection nothing was sent: a failure, but nothing unknown.
      assert.deepEqual(types, {
        insert: report.inserted,
        update: report.updated,
        delete: report.deleted,
      });
      const documents = await readByIds(own.redis, config, "session", ids);
      assert.equal(documents.filter((document) => document !== null).length, report.live);
    } else {
      assert(report.failed > 0);
      await redis.counters.flush();
      assert.equal(
        await own.redis.get("metrics:redis_retry"),
        null,
        "repeated without a request id",
      );
    }
  });
}

Deno.test("what does not fit is refused before anything is written", async () => {
  await using own = await empty();
  const { redis, config } = own;
  await assert.rejects(dummyDataWorker(redis, config, "nobody"), ConfigError);
  await assert.rejects(dummyDataWorker(redis, config, "session", { create_pct: 0.9 }), ConfigError);
  await assert.rejects(dummyDataWorker(redis, config, "session", { rate: -1 }), ConfigError);
  assert.equal(await redis.dbsize(), 0);
});

Deno.test("a listener that throws ends the traffic with its error, and no call is left", async () => {
  await using own = await empty();
  const began = performance.now();
  const running = dummyDataWorker(own.redis, own.config, "session", {
    num_records: 1e9,
    concurrency: 64,
    onProgress: () => {
      throw new Error("the listener's own");
    },
  });
  await assert.rejects(running, /the listener's own/);
  assert(performance.now() - began < 5000, "the other lanes went on");
  assert.equal(own.redis.callsInFlight, 0);
});
