/** Another number of partitions in a cluster, whose nodes share no step. */

import assert from "node:assert/strict";
import type { Buffer } from "node:buffer";
import {
  configWith,
  connectRedis,
  consumePeriodically,
  createSearchIndex,
  createTable,
  documentKey,
  insertDocument,
  openTarget,
  readByIds,
  type Receipt,
  repartition,
  replayDeadLetters,
  search,
  seededRandom,
  updateDocument,
  verify,
} from "writebehind";
import { askNode, nodeId } from "writebehind/dev/servers/cluster.ts";
import { change } from "writebehind/operate/repartition/changes.ts";
import { transfer } from "writebehind/operate/repartition/transfer.ts";
import { allPartitions, keysOfDocument, partitionOf } from "writebehind/redis/keys.ts";
import { slotOf } from "writebehind/redis/slots.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { Author } from "../faults/author.ts";
import { keepLedger, versionsOf } from "../faults/ledger.ts";
import { TestCluster } from "../support/cluster.ts";
import { type Pipeline, rowsOf } from "../support/pipeline.ts";
import { configFile, environmentOf } from "../support/processes.ts";
import { assertOnce, assertSame, killAt, killUnderWay, LOCK } from "../support/repartitioned.ts";
import { testPostgres, waitFor } from "../support/servers.ts";

const cluster = await TestCluster.start();
const postgres = await testPostgres();
Deno.test.afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});

/** A pipeline over the emptied cluster, with some partitions, a target, and the number read from Redis. */
async function inCluster(partitions: number) {
  await using stack = new AsyncDisposableStack();
  const pipeline = stack.use(await cluster.pipeline(postgres, { streams: { partitions } }));
  await createTable(pipeline.pool, pipeline.config, "session");
  await keepLedger(pipeline);
  await insertDocument(pipeline.redis, pipeline.config, "session", { first: true }, "first");
  const config = pipeline.with({ streams: { partitions: "auto" } });
  const redis = stack.use(await connectRedis(config));
  const target = stack.use(await openTarget(config));
  const owned = stack.move();
  return {
    ...{ pool: pipeline.pool, config, redis, target },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

type InCluster = Awaited<ReturnType<typeof inCluster>>;

async function keysNow(): Promise<string[]> {
  const found: string[] = [];
  for (const node of cluster.nodes) {
    const [role] = await askNode(node, "ROLE") as [string];
    if (role === "master") found.push(...await askNode(node, "KEYS", "*") as string[]);
  }
  return found;
}

/** Each key is where it belongs by the number of partitions, and of others there are but marks. */
async function assertPlaced({ redis, config }: InCluster, to: number) {
  const own = allPartitions(config, "session");
  assert.equal(own.length, to);
  for (const key of await keysNow()) {
    // What sinks report comes about once a second, and may so come late.
    if (/^(log:|metrics:)/.test(key) || key === "stream:settings:session") continue;
    const [, family, partition, rest] = /^(.*?)\{session-(\d+)\}:?(.*)$/.exec(key) ?? [];
    assert(family !== undefined, key);
    if (Number(partition) >= to) {
      assert.equal(family, "stream:settings:", key);
      const fields = await redis.hgetall(key);
      assert.match(
        JSON.stringify(fields),
        /^\{"partitions":"\d( tagged)? into \d( tagged)?"\}$/,
        key,
      );
    } else if (family === "session:") {
      assert.equal(partitionOf(rest!, to), Number(partition), key);
    }
  }
}

/** The indexes of all nodes. */
async function indexesNow(): Promise<string[]> {
  const lists = await Promise.all(cluster.nodes.map((node) => askNode(node, "FT._LIST")));
  return [...new Set(lists.flat() as string[])].sort();
}

const parkedOf = async ({ pool }: Pick<Pipeline, "pool">) =>
  (await pool.query(
    "SELECT stream, convert_from(doc_id, 'utf8') AS id FROM writebehind_dead_letter ORDER BY id",
  )).rows as { stream: string; id: string }[];

Deno.test("under a writer, a reader and a sink: 4, 9, 2, 1 and 3", async () => {
  await using own = await inCluster(4);
  const { redis, config, target, pool } = own;
  const author = new Author(redis, config, { random: seededRandom(3), paceMs: 1, documents: 300 });
  await author.write({ calls: 500 });
  const user = { user_id: "u1" };
  await createSearchIndex(redis, config, "session");
  const ids = Array.from({ length: 30 }, (_, n) => `s${n}`);
  const insert = (id: string) =>
    insertDocument(redis, config, "session", user, id, { requestId: `r-${id}` });
  const receipts = await Promise.all(ids.map(insert));
  const receiptOf = (id: string) => keysOfDocument(config, "session", id).requestPrefix + `r-${id}`;
  // An older version has not noted which document it is.
  await redis.hdel(receiptOf("s3"), "doc_id");
  await redis.expire(receiptOf("s4"), 300);
  for (const id of ["due-1", "due-2", "due-3", "due-4"]) {
    await insertDocument(redis, config, "session", {}, id, { ttlSeconds: 3600 });
  }
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  const bad = ["bad-1", "bad-2", "bad-3"];
  for (const id of bad) await insertDocument(redis, config, "session", { bad: 1 }, id);
  const sink = consumePeriodically(redis, target, config, "session");
  await using _sink = sink;
  await waitFor(async () => (await parkedOf(own)).length === 3, {
    what: "the parked events",
    deadlineMs: 30_000,
  });
  const writing = author.start();
  const reading = new AbortController();
  const reads = (async () => {
    let count = 0;
    for (; !reading.signal.aborted; count++) {
      const found = await readByIds(redis, config, "session", ids);
      assert.deepEqual(found, ids.map(() => user));
    }
    return count;
  })();
  await using _ended = {
    async [Symbol.asyncDispose]() {
      reading.abort();
      await Promise.allSettled([reads, writing.stop()]);
    },
  };
  let last = 4;
  for (const to of [9, 2, 1, 3]) {
    const before = author.events;
    const { moved, from } = await repartition(redis, [target], config, "session", { to });
    assert.equal(from, last === 1 ? "1 tagged" : String(last));
    assert(moved > 0, `${to}: ${moved} moved`);
    last = to;
    await waitFor(() => author.events > before + 30, { what: "writes", deadlineMs: 60_000 });
    for (const { stream, id } of await parkedOf(own)) {
      assert.equal(stream, keysOfDocument(config, "session", id).stream, id);
    }
    assert.equal((await parkedOf(own)).length, 3);
    assert.equal((await search(redis, config, "session", { text: user })).total, 30);
    assert.deepEqual(
      await indexesNow(),
      Array.from({ length: to }, (_, n) => `idx:sessions:{session-${n}}`),
    );
    for (const id of ["s3", "s4", "s5"]) {
      assert.deepEqual(await insert(id), { ...receipts[ids.indexOf(id)], repeated: true });
    }
    const left = await redis.ttl(receiptOf("s4"));
    assert(left > 0 && left <= 600, `${left} s`);
    // Of documents that are due, one goes each time.
    const id = `due-${[9, 2, 1, 3].indexOf(to) + 1}`;
    const { due } = keysOfDocument(config, "session", id);
    assert(Number(await redis.zscore(due, `d${id}`)) > Date.now(), id);
    await redis.zadd(due, Date.now(), `d${id}`);
    await waitFor(async () => !(await rowsOf(own)).has(id), {
      what: `${id} to be deleted`,
      deadlineMs: 30_000,
    });
    await assertPlaced(own, to);
  }
  await writing.stop();
  reading.abort();
  assert(await reads > 20);
  await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
  const replayed = await replayDeadLetters(redis, target, config, "session", { all: true });
  assert.deepEqual(replayed, { applied: 3, gone: 0, superseded: 0, failed: 0 });
  await assertSame(redis, target, config, author.documents().size + 1 + 30 + 3);
  await assertOnce(own, author);
});

/** Places at which it is killed: at some of them a part of the slots has taken a step. */
const REVERSIBLE = ["marking:2", "marking:4", "marked", "pausing"];
/** One after the other, at each of which it goes on from the one before. */
const PLACES: [to: number, ...places: string[]][] = [
  [6, "marking:4", "marking:16", "copied", "requests", "retiring:2", "accepting:2", "switched"],
  [3, "pausing", "documents", "due", "switching", "retired", "accepting:4", "indexed"],
];

Deno.test("killed at every step, it goes on when it is run again, or is taken back", async (t) => {
  await using own = await inCluster(4);
  const { redis, config, target } = own;
  const author = new Author(redis, config, { random: seededRandom(9), paceMs: 2 });
  await author.write({ calls: 200 });
  await using _sink = consumePeriodically(redis, target, config, "session");
  const writing = author.start();
  const path = await configFile({ streams: { partitions: "auto" } });
  const args = ["--config", path, "--entity", "session"];
  let now = 4;
  const killedAt = (place: string, more: string[]) =>
    killUnderWay(place, [...args, ...more], { redis, target, config });
  const goesOn = async () => {
    const before = author.events;
    await waitFor(() => author.events > before + 10, { what: "writes", deadlineMs: 60_000 });
    await assertPlaced(own, now);
  };
  // Some partitions take writes already then, of who has known the new number before.
  const early = Array.from({ length: 50 }, (_, n) => `early-${n}`)
    .find((id) => partitionOf(id, 6) === 0)!;
  const writeEarly = async () => {
    const fixed = configWith(config, { streams: { partitions: 6 } });
    await using other = await connectRedis(fixed);
    return await insertDocument(other, fixed, "session", { early: true }, early);
  };
  let receipt: Receipt | undefined;
  for (const [to, ...places] of PLACES) {
    for (const place of places) {
      await t.step(`${place}, to ${to}`, async () => {
        await killedAt(place, ["--to", String(to)]);
        if (place === "accepting:2") receipt = await writeEarly();
        if (REVERSIBLE.includes(place)) return;
        await assert.rejects(
          repartition(redis, [target], config, "session", { back: true }),
          /Cannot take back the repartition of session: documents have begun/,
        );
      });
    }
    await repartition(redis, [target], config, "session", { to });
    now = to;
    await goesOn();
    assert.deepEqual(await readByIds(redis, config, "session", [early]), [{ early: true }]);
  }
  for (const place of REVERSIBLE) {
    await t.step(`${place}, and taken back`, async () => {
      await killedAt(place, ["--to", "9"]);
      // That may be killed as well.
      if (place === "marked") await killedAt("unmarking:2", ["--back"]);
      const report = await repartition(redis, [target], config, "session", { back: true });
      assert.deepEqual([report.back, report.from], [true, String(now)]);
      await goesOn();
    });
  }
  await writing.stop();
  await assertSame(redis, target, config, author.documents().size + 2);
  assert.equal((await versionsOf(own)).get(early), receipt!.version);
  await assertOnce(own, author);
});

Deno.test("what another program writes meanwhile is found, moved and resent", async (t) => {
  await using own = await inCluster(4);
  const { redis, config, target } = own;
  await insertDocument(redis, config, "session", { n: 1 }, "d1");
  await using _sink = consumePeriodically(redis, target, config, "session");
  const args = ["--config", await configFile({ streams: { partitions: "auto" } })];
  const ids = Array.from({ length: 400 }, (_, n) => `foreign-${n}`);
  // At the second place one stream is as it was still, and the others are made anew.
  for (
    const [place, partition, from, to] of [
      ["switching", 2, 4, 6],
      ["retiring:2", 1, 6, 4],
      ["copied", 0, 4, 3],
    ] as const
  ) {
    await t.step(place, async () => {
      await killAt(
        place,
        [...args, "--entity", "session", "--to", String(to)],
        environmentOf(config),
      );
      await redis.del(LOCK);
      const id = ids.find((one) =>
        partitionOf(one, from) === partition && partitionOf(one, to) !== partition
      );
      assert(id !== undefined);
      const { documentPrefix, stream } = keysOfDocument(config, "session", id, {
        partitions: from,
        tagged: true,
      });
      await redis.call("JSON.SET", documentPrefix + id, "$", `{"at":"${place}"}`);
      await redis.xadd(stream, "*", "doc_id", id, "event_type", "insert");
      await repartition(redis, [target], config, "session", { to });
      await waitFor(async () => (await rowsOf(own)).get(id) === `{"at":"${place}"}`, {
        what: `${id} in the target`,
        deadlineMs: 30_000,
      });
      assert.deepEqual(await readByIds(redis, config, "session", [id]), [{ at: place }]);
      await assertPlaced(own, to);
      assert.deepEqual((await verify(redis, target, config, "session")).mismatches, []);
    });
  }
});

Deno.test("changes that a moving slot cuts in two are made whole where it goes", async () => {
  await using own = await inCluster(2);
  const { redis, config } = own;
  const [settings, stream] = ["{cut}settings", "{cut}stream"];
  await redis.hset(settings, "old", "1");
  await redis.xadd(stream, "*", "old", "1");
  const from = await cluster.masterOf(stream);
  const to = await cluster.masterBeside(from);
  const slot = slotOf(stream);
  await askNode(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", await nodeId(from));
  await askNode(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", await nodeId(to));
  const { signal } = new AbortController();
  const scope = { redis, config, entity: "session", signal, patienceMs: 60_000 };
  const changing = change(scope, [[
    ...[["UNLINK", settings], ["UNLINK", stream], ["HSET", settings, "new", "1"]] as const,
    ["MAKE", stream, "7-0"],
  ]]);
  await waitFor(async () => await askNode(from, "CLUSTER", "COUNTKEYSINSLOT", slot) === 0, {
    what: "the first half",
  });
  await cluster.move(stream, to);
  assert.deepEqual(await changing, []);
  assert.deepEqual(await redis.hgetall(settings), { new: "1" });
  assert.equal(await lastGeneratedId(redis, stream), "7-0");
});

/** A text that cannot be packed. */
const noise = () => crypto.getRandomValues(new Uint8Array(65_536)).toHex();

Deno.test("over a master that dies and a slot that moves while documents do, and with large documents", async () => {
  await using own = await inCluster(4);
  const { redis, config, target } = own;
  const author = new Author(redis, config, {
    random: seededRandom(5),
    paceMs: 0,
    documents: 800,
    lanes: 20,
  });
  await author.write({ calls: 1500 });
  const large = { texts: Array.from({ length: 7 }, noise) };
  const ids = Array.from({ length: 40 }, (_, n) => `large-${n}`);
  for (const id of ids) await insertDocument(redis, config, "session", large, id);
  await using _sink = consumePeriodically(redis, target, config, "session");
  const writing = author.start();
  const streams = allPartitions(config, "session").map(({ stream }) => stream);
  // The lock would end while its own node is away.
  const masters = await cluster.mastersOf([LOCK, ...streams]);
  const victim = masters.find(({ port }) => port !== masters[0]!.port)!;
  let moving: Promise<unknown> | undefined;
  const sizes: number[] = [];
  await using other = await connectRedis(config);
  const callBuffer = other.callBuffer.bind(other) as typeof redis.callBuffer;
  other.callBuffer = (async (...args: Parameters<typeof callBuffer>) => {
    const reply = await callBuffer(...args);
    const bytes = (reply as (Buffer | number)[]).map((one) => Object(one).length ?? 0);
    sizes.push(bytes.reduce((sum, size) => sum + size, 0));
    // What was read is put elsewhere when a master has died since; from then on a slot moves.
    if (sizes.length === 1) {
      await victim.kill("SIGKILL");
      const key = [LOCK, ...streams][masters.indexOf(victim)]!;
      await cluster.failedOver(key, victim);
      await cluster.restart(victim);
      moving = cluster.masterOf(streams[2]!).then(async (master) =>
        await cluster.move(streams[2]!, await cluster.masterBeside(master))
      );
    }
    return reply;
  }) as typeof redis.callBuffer;
  const { moved } = await repartition(other, [target], config, "session", {
    to: 7,
    patienceMs: 120_000,
  });
  assert(moved > 300, `${moved} moved`);
  await moving;
  // So many bytes are on their way at a time.
  assert(Math.max(...sizes) > 3_000_000, `${sizes}`);
  assert(Math.max(...sizes) < 6_000_000, `${sizes}`);
  const before = author.events;
  await waitFor(() => author.events > before + 30, { what: "writes", deadlineMs: 60_000 });
  await writing.stop();
  assert.deepEqual(await readByIds(redis, config, "session", ids), ids.map(() => large));
  await assertPlaced(own, 7);
  await assertSame(redis, target, config, author.documents().size + 1 + ids.length);
  await assertOnce(own, author);
});

Deno.test("a replica that does not confirm stops it in one line, and it goes on", async () => {
  await using own = await inCluster(3);
  const { redis, target, config } = own;
  const hasty = configWith(config, { zero_data_loss: { wait_timeout_ms: 100 } });
  await using other = await connectRedis(hasty);
  await using _sink = consumePeriodically(redis, target, config, "session");
  await waitFor(async () => (await rowsOf(own)).size === 1, { what: "the row" });
  const master = await cluster.masterOf("stream:{session-1}");
  const replica = await cluster.replicaOf(master);
  await replica.kill("SIGSTOP");
  try {
    await assert.rejects(
      repartition(other, [target], hasty, "session", { to: 4, patienceMs: 300 }),
      (error: Error) => {
        assert.match(
          error.message,
          /^Redis at 127\.0\.0\.1:\d+: 0 of 1 replicas acknowledged within zero_data_loss\.wait_timeout_ms \(100 ms\)$/,
        );
        return true;
      },
    );
  } finally {
    await replica.kill("SIGCONT");
  }
  // The rights that are documented are enough for it.
  const page = await Deno.readTextFile(new URL("../../docs/operating.md", import.meta.url));
  const [, rules] = /ACL SETUSER clustered (on >PASSWORD .*)/.exec(page)!;
  const [, more] = /In a cluster that is, instead, `(.*)`/.exec(page)!;
  for (const node of cluster.nodes) {
    await askNode(node, "ACL", "SETUSER", "clustered", ...rules!.split(" "), ...more!.split(" "));
  }
  const user = { username: "clustered", password: "PASSWORD" };
  const theirs = configWith(config, { redis: user });
  await using restricted = await connectRedis(theirs);
  await repartition(restricted, [target], theirs, "session", { to: 4 });
  // A clock that was set back leaves ids that are ahead of it.
  const { stream } = keysOfDocument(theirs, "session", "second");
  await redis.xsetid(stream, `${Date.now() + 3_600_000}-7`);
  const options = { requestId: "r", ttlSeconds: 900 };
  const before = await insertDocument(redis, config, "session", {}, "second", options);
  await repartition(restricted, [target], theirs, "session", { to: 2 });
  // Else what is due would stay until somebody uses ttlSeconds there.
  const { settings } = keysOfDocument(theirs, "session", "second");
  assert.equal(await redis.hget(settings, "due"), "1");
  for (let n = 0; n < 8; n++) {
    const { version } = await insertDocument(redis, config, "session", { n }, `later-${n}`);
    assert(version! > before.version!, `${version}`);
  }
  await assertPlaced(own, 2);
});

Deno.test("what changes while it is copied is copied again; who was overtaken puts nothing back", async () => {
  await using own = await inCluster(4);
  const { redis, config } = own;
  await using _sink = consumePeriodically(redis, own.target, config, "session");
  const ids = Array.from({ length: 20 }, (_, n) => `d${n}`);
  for (const id of ids) await insertDocument(redis, config, "session", { n: 1 }, id);
  const four = { partitions: 4, tagged: true };
  const five = { partitions: 5, tagged: true };
  const id = ids.find((one) => partitionOf(one, 4) !== partitionOf(one, 5))!;
  const [old, now] = [four, five].map((shape) => {
    const keys = keysOfDocument(config, "session", id, shape);
    return { in: keys, key: keys.documentPrefix + id };
  });
  const scope = {
    ...{ redis, config, entity: "session", patienceMs: 1000 },
    signal: new AbortController().signal,
  };
  const run = () => transfer(scope, "4 into 5", [{ from: old!, to: [now!] }]);
  const settings = [old!, now!].map((place) => place.in.settings);
  for (const one of settings) await redis.hset(one, "partitions", "4 into 5");
  const runDurably = redis.runDurably.bind(redis);
  redis.runDurably = async (...args) => {
    const outcome = await runDurably(...args);
    // Another program, which asks nobody, writes to the old name of what is at both.
    redis.runDurably = runDurably;
    await redis.call("JSON.SET", old!.key, "$.n", "1.5");
    return outcome;
  };
  assert.equal(await run(), 1);
  assert.equal(await redis.call("JSON.GET", now!.key), '{"n":1.5}');
  assert.equal(await redis.exists(old!.key), 0);
  await redis.call("JSON.SET", old!.key, "$", '{"n":1}');
  for (const one of settings) await redis.hset(one, "partitions", "4");
  await redis.del(now!.key, now!.in.settings);

  await repartition(redis, [own.target], config, "session", { to: 5 });
  // What it had read before lies at the old name, as it were.
  await redis.call("JSON.SET", old!.key, "$", '{"n":0}');
  await updateDocument(redis, config, "session", id, { n: 2 });
  await assert.rejects(
    run(),
    /another process may have begun to repartition session, since this one/,
  );
  assert.deepEqual(await readByIds(redis, config, "session", [id]), [{ n: 2 }]);
  assert.equal(documentKey(config, "session", id), now!.key);
});
