import assert from "node:assert/strict";
import {
  discardDeadLetters,
  insertDocument,
  readByIds,
  RedisRefusedError,
  RedisWriteBehind,
  replayDeadLetters,
  updateDocument,
} from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { runScript, settleScript } from "writebehind/redis/scripts/mod.ts";
import { type Cached, cached, SESSION, watchedTarget } from "../support/cached.ts";
import { drain, offsetOf, reset, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";
import { killAt } from "./sinks.ts";

const entities = [{ ...SESSION, cache: { enabled: true, keep_seconds: 100 } }];
const pipeline = await testPipeline({ entities, documents: { max_bytes: 1000 } });
Deno.test.afterAll(async () => await pipeline[Symbol.asyncDispose]());
const { redis, config, pool } = pipeline;
const keys = partitionKeys(config, "session", 0);

function test(name: string, work: (own: Cached) => Promise<void>): void {
  Deno.test(`cache: ${name}`, async () => {
    await reset(pipeline);
    await work(cached(pipeline));
  });
}

/** Reads a document whose row is held back once it was read, until it is let go. */
async function heldRead(id: string) {
  const [read, letGo] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const watched = await watchedTarget(config, async (look) => {
    const rows = await look();
    read.resolve();
    await letGo.promise;
    return rows;
  });
  const { through } = watched;
  const reading = readByIds(redis, config, "session", [id], { through });
  await read.promise;
  return {
    async end() {
      letGo.resolve();
      return (await reading)[0];
    },
    [Symbol.asyncDispose]: () => watched[Symbol.asyncDispose](),
  };
}

const lastNote = async () => (await redis.xrevrange(keys.stream, "+", "-", "COUNT", 1))[0]![0];

for (const place of ["applied", "settling"]) {
  test(`a sink killed at ${place} has not settled, the next one does`, async (own) => {
    await own.insert("a", 1);
    await own.insert("b", 1);
    await own.remove("b");
    await killAt(place, config);
    assert.notEqual(await offsetOf(pool, keys.stream), "0-0");
    assert.equal(await own.ttl("a"), -1);
    assert.equal(await redis.hlen(keys.notes), 2);
    // While the lease of the other one lasts, there is nothing to drain.
    await waitFor(async () => {
      await drain(pipeline);
      return await own.ttl("a") > 90;
    }, { what: "the next claim to settle" });
    assert.equal(await redis.hlen(keys.notes), 0);
  });
}

for (const what of ["updated", "deleted"] as const) {
  test(`a row that was read, then ${what}, settled and evicted, is not put back`, async (own) => {
    await own.insert("a", 1);
    await drain(pipeline);
    await own.evict("a");
    await using held = await heldRead("a");
    if (what === "updated") await own.update("a", 2);
    else await own.remove("a");
    const expected = what === "updated" ? { n: 2 } : null;
    assert.deepEqual(await own.read("a"), [expected], "one's own write is read at once");
    await drain(pipeline);
    if (what === "updated") await own.evict("a");
    assert.deepEqual(await held.end(), { n: 1 }, "what it was when the read began");
    assert.deepEqual(await own.read("a"), [expected], "who reads since has what is written since");
  });
}

test("a look from before one's own write is not shared", async (own) => {
  await own.insert("a", 1);
  await drain(pipeline);
  await own.evict("a");
  await using held = await heldRead("a");
  await own.insert("a", 2, { overwrite: true });
  await drain(pipeline);
  await own.evict("a");
  const since = own.read("a");
  assert.deepEqual(await held.end(), { n: 1 }, "what it was when the read began");
  assert.deepEqual(await since, [{ n: 2 }]);
});

test("a row that was read before Redis was emptied is not put back", async (own) => {
  await own.insert("a", 1);
  await drain(pipeline);
  await own.evict("a");
  await using held = await heldRead("a");
  await own.update("a", 2);
  await drain(pipeline);
  await redis.flushall();
  assert.equal((await drain(pipeline)).wentBack, 1);
  assert.deepEqual(await own.read("a"), [{ n: 2 }], "also where nobody has written since");
  await redis.unlink("session:a");
  assert.deepEqual(await held.end(), { n: 1 }, "what it was when the read began");
  assert.deepEqual(await own.read("a"), [{ n: 2 }]);
});

test("that a batch is settled is known before its first document may be evicted", async (own) => {
  await Promise.all(Array.from({ length: 600 }, (_, n) => own.insert(`d${n}`, n)));
  const monitor = await redis.monitor();
  const settled: string[] = [];
  monitor.on("monitor", (_: string, [command, key, field]: string[]) => {
    if (command === "HDEL" && key === keys.notes) settled.push("gone");
    if (command === "HSET" && key === keys.settings && field === "settled") settled.push("known");
  });
  try {
    await drain(pipeline);
    assert.equal(await redis.hlen(keys.notes), 0);
    await waitFor(() => settled.length >= 4, { what: "what the settling did" });
  } finally {
    monitor.disconnect();
  }
  assert.deepEqual(settled, ["gone", "known", "gone", "known"]);
  assert.equal(await redis.hget(keys.settings, "settled"), await lastNote());
});

test("who settles late, or after Redis has gone back, finds no unknown program", async (own) => {
  await own.insert("a", 1);
  const event = await lastNote();
  await own.insert("b", 1);
  await drain(pipeline);
  const settle = (id: string, streamId: string, witness: string) =>
    runScript(
      redis,
      settleScript,
      [keys.stream, keys.settings, keys.notes, `session:${id}`],
      [streamId, "100000", witness, id, streamId],
    );
  assert.equal(await settle("a", event, await lastNote()), "", "the next owner has settled it");
  const lost = `${Date.now() + 1000}-0`;
  assert.equal(await settle("a", lost, lost), "", "its event is not in this Redis");
  assert.equal(await redis.hget(keys.settings, "cache"), "on");
  await pool.query("UPDATE writebehind_offset SET last_id = '0-0', witness = '0-0'");
  await drain(pipeline);
  assert.equal(await redis.hget(keys.settings, "cache"), "on", "applied once more");
});

test("a target that has lost commits is read again once what is left was applied", async (own) => {
  await own.insert("a", 1);
  await drain(pipeline);
  await own.evict("a");
  await redis.hset(keys.settings, "settled", `${Date.now() + 1000}-0`);
  await drain(pipeline);
  assert.equal(await redis.hget(keys.settings, "settled"), await offsetOf(pool, keys.stream));
  assert.deepEqual(await own.read("a"), [{ n: 1 }]);
});

test("a document that Redis has in an older state than its row goes", async (own) => {
  await own.insert("a", 1);
  await own.insert("b", 1);
  await drain(pipeline);
  // So it is where an old file was loaded: "a" was settled in it, "b" not yet.
  await pool.query(`UPDATE sessions SET payload = '{"n":2}', version = version + 1`);
  await redis.persist("session:b");
  await redis.hset(keys.notes, "b", await lastNote());
  await redis.del(keys.stream);
  assert.equal((await drain(pipeline)).wentBack, 1);
  assert.deepEqual(await own.read("a", "b"), [{ n: 2 }, { n: 2 }]);
});

test("events that were removed from the stream are sent again by their notes", async (own) => {
  await own.insert("a", 1);
  await own.insert("b", 1);
  await drain(pipeline);
  await own.update("a", 2);
  await own.remove("b");
  await redis.del(keys.stream);
  await drain(pipeline);
  const { rows } = await pool.query("SELECT id, payload FROM sessions");
  assert.deepEqual(rows, [{ id: "a", payload: { n: 2 } }]);
  assert(await own.ttl("a") > 90);
  assert.equal(await redis.hlen(keys.notes), 0);
});

test("so are those that a later event has passed, before it was noticed", async (own) => {
  await own.insert("a", 1);
  await drain(pipeline);
  await own.update("a", 2);
  await redis.xtrim(keys.stream, "MAXLEN", 0);
  await own.insert("b", 1);
  // Applied as if the trim had not been seen yet.
  await pool.query("UPDATE writebehind_offset SET last_id = $1", [await lastNote()]);
  await drain(pipeline);
  const { rows } = await pool.query("SELECT payload FROM sessions WHERE id = 'a'");
  assert.deepEqual(rows, [{ payload: { n: 2 } }]);
});

test("so they are where only their notes tell that they were there", async (own) => {
  await own.insert("a", 1);
  await own.insert("b", 1);
  await own.insert("d", 1);
  await drain(pipeline);
  await own.update("a", 2);
  await own.remove("b");
  await redis.xtrim(keys.stream, "MAXLEN", 0);
  await own.insert("c", 1);
  // Applied, and the sink has died before it saw the trim: what was applied last is in the stream.
  const last = await lastNote();
  await pool.query("UPDATE writebehind_offset SET last_id = $1, witness = $1", [last]);
  await pool.query(
    `INSERT INTO sessions (id, payload, version)
     VALUES ('c', '{"n":1}', split_part($1, '-', 1)::bigint * 1048576 + split_part($1, '-', 2)::bigint)`,
    [last],
  );
  await using sink = new RedisWriteBehind(redis, pool, config, "session");
  const told: number[] = [];
  sink.events.on("resent", ({ documents }) => told.push(documents));
  assert.equal((await sink.drain()).wentBack, 0);
  assert.deepEqual(told, [2]);
  const { rows } = await pool.query("SELECT id, payload FROM sessions ORDER BY id");
  assert.deepEqual(rows, [["a", 2], ["c", 1], ["d", 1]].map(([id, n]) => ({ id, payload: { n } })));
  assert(await own.ttl("a") > 90);
  assert.equal(await redis.hlen(keys.notes), 0);
});

test("Redis is full: a miss is answered, and an update of it refused at once", async (own) => {
  await own.insert("a", 1);
  await drain(pipeline);
  await own.evict("a");
  await redis.config("SET", "maxmemory", "1mb");
  try {
    assert.deepEqual(await own.read("a", "none"), [{ n: 1 }, null]);
    assert.equal(await own.ttl("a"), -2, "not put back");
    await assert.rejects(
      own.update("a", 2),
      (error) => error instanceof RedisRefusedError && error.code === "OOM",
    );
  } finally {
    await redis.config("SET", "maxmemory", "0");
  }
  await own.update("a", 2);
});

test("Redis is full: what is applied makes room", async (own) => {
  await own.insert("a", 1);
  await own.insert("b", 1);
  await own.update("a", 2);
  await redis.config("SET", "maxmemory", "1mb", "maxmemory-policy", "volatile-lfu");
  try {
    await drain(pipeline);
    assert.equal(await redis.exists("session:a", "session:b"), 0);
    assert.deepEqual(await own.read("a", "b"), [{ n: 2 }, { n: 1 }]);
  } finally {
    await redis.config("SET", "maxmemory", "0", "maxmemory-policy", "noeviction");
  }
});

test("Redis is full: what was removed from the stream is sent again", async (own) => {
  await own.insert("a", 1);
  await drain(pipeline);
  await own.update("a", 2);
  await redis.del(keys.stream);
  await redis.config("SET", "maxmemory", "1mb", "maxmemory-policy", "volatile-lfu");
  try {
    await drain(pipeline);
    assert.deepEqual(await own.read("a"), [{ n: 2 }]);
  } finally {
    await redis.config("SET", "maxmemory", "0", "maxmemory-policy", "noeviction");
  }
});

test("a refused update does not make a document stay for good", async (own) => {
  await insertDocument(redis, config, "session", { one: "x".repeat(600) }, "a");
  await drain(pipeline);
  const long = updateDocument(redis, config, "session", "a", { two: "x".repeat(600) });
  await assert.rejects(long, /more than documents.max_bytes/);
  assert(await own.ttl("a") > 90);
});

test("the target is down: a hit works, a miss is an error that says so", async (own) => {
  await own.insert("a", 1);
  await own.insert("b", 1);
  await drain(pipeline);
  await own.evict("a");
  await using proxy = await TcpProxy.start(pipeline.servers.postgres);
  const distant = pipeline.with({ postgresql: { port: proxy.port } });
  await proxy.refuse();
  const read = (id: string) => readByIds(redis, distant, "session", [id]);
  assert.deepEqual(await read("b"), [{ n: 1 }]);
  await assert.rejects(
    read("a"),
    /Redis does not have a of session, and its target cannot be asked: /,
  );
  await assert.rejects(
    updateDocument(redis, distant, "session", "a", { n: 2 }),
    /its target cannot be asked/,
  );
  await proxy.heal();
  assert.deepEqual(await read("a"), [{ n: 1 }]);
});

/** Has the update of a document parked, whose row stays as it was. */
async function parked(own: Cached): Promise<void> {
  await own.insert("a", 1);
  await drain(pipeline);
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT small CHECK ((payload->>'n')::int < 5)");
  await own.update("a", 9);
  await drain(pipeline);
}
const unparked = () => pool.query("ALTER TABLE sessions DROP CONSTRAINT IF EXISTS small");

test("a parked event keeps its note until it is replayed", async (own) => {
  try {
    await parked(own);
    await drain(pipeline);
    assert.equal(await own.ttl("a"), -1);
    assert.equal(await redis.hlen(keys.notes), 1);
    await unparked();
    await replayDeadLetters(redis, pool, config, "session", { all: true });
    await drain(pipeline);
    assert(await own.ttl("a") > 90);
    assert.equal(await redis.hlen(keys.notes), 0);
  } finally {
    await unparked();
  }
});

test("where a parked event is discarded, the row counts", async (own) => {
  try {
    await parked(own);
    await pool.query("CREATE TABLE kept (id TEXT REFERENCES sessions (id))");
    await own.insert("b", 1);
    await own.insert("c", 7);
    await drain(pipeline);
    await pool.query("INSERT INTO kept VALUES ('b')");
    await own.remove("b");
    await own.update("c", 8);
    await drain(pipeline);
    assert.equal(await redis.hlen(keys.notes), 3);
    assert.deepEqual(await own.read("a", "b", "c"), [{ n: 9 }, null, { n: 8 }]);
    for (const docId of ["a", "b"]) await discardDeadLetters(pool, config, "session", { docId });
    await drain(pipeline);
    assert.equal(await redis.hlen(keys.notes), 1, "the third one is still parked");
    assert.deepEqual(await own.read("a", "b", "c"), [{ n: 1 }, { n: 1 }, { n: 8 }]);
    await discardDeadLetters(pool, config, "session", { all: true });
    await drain(pipeline);
    assert.equal(await redis.hlen(keys.notes), 0);
    assert.deepEqual(await own.read("c"), [null], "it has no row");
    await own.update("a", 3);
    await drain(pipeline);
    assert(await own.ttl("a") > 90);
  } finally {
    await pool.query("DROP TABLE IF EXISTS kept");
    await unparked();
  }
});

test("what was lost with its parked event is read as its row is, and not put back", async (own) => {
  try {
    await parked(own);
    await redis.flushall();
    assert.deepEqual(await own.read("a"), [{ n: 1 }]);
    await assert.rejects(own.update("a", 2), /RedisJSON refuses it \(.* an event of it is parked/);
    await unparked();
    await replayDeadLetters(redis, pool, config, "session", { all: true });
    assert.deepEqual(await own.read("a"), [{ n: 9 }]);
  } finally {
    await unparked();
  }
});
