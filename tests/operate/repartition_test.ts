/** Another number of partitions, under a writer and a sink. */

import assert from "node:assert/strict";
import {
  ConfigError,
  configWith,
  connectRedis,
  consumePeriodically,
  createSearchIndex,
  deleteDocument,
  DocumentError,
  documentKey,
  insertDocument,
  openTarget,
  pauseTarget,
  readByIds,
  readStatus,
  repartition,
  replayDeadLetters,
  resumeTarget,
  search,
  seededRandom,
  type Target,
  updateDocument,
  verify,
} from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { Author } from "../faults/author.ts";
import { clearLedger, keepLedger } from "../faults/ledger.ts";
import { drain, reset, testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { assertOnce, assertSame, killUnderWay, LOCK } from "../support/repartitioned.ts";
import { testFolder, testRedis, waitFor } from "../support/servers.ts";

const AUTO = { streams: { partitions: "auto" } } as const;

const pipeline = await testPipeline(AUTO);
await keepLedger(pipeline);
Deno.test.afterAll(async () => await pipeline[Symbol.asyncDispose]());

/** A connection, and a configuration that has read from Redis how many partitions there are. */
async function using(partitions: number | "auto" = "auto") {
  const config = pipeline.with({ streams: { partitions } });
  const redis = await connectRedis(config);
  const target = await openTarget(config);
  return {
    redis,
    config,
    target,
    async [Symbol.asyncDispose]() {
      await target.close();
      await redis.close();
    },
  };
}

async function fresh() {
  await reset(pipeline);
  await clearLedger(pipeline);
}

Deno.test("under a writer, readers and a sink: all is in the target once, and all go on", async () => {
  await fresh();
  await using own = await using();
  const { redis, config, target } = own;
  const author = new Author(redis, config, { random: seededRandom(3), paceMs: 1, documents: 200 });
  await author.write({ calls: 400 });
  await insertDocument(redis, config, "session", { stays: true }, "kept");
  await using sink = consumePeriodically(redis, target, config, "session");
  const failed: string[] = [];
  sink.events.on("failed", ({ error }) => failed.push(error.message));
  const writing = author.start();
  const reading = new AbortController();
  const reads = (async () => {
    let count = 0;
    for (; !reading.signal.aborted; count++) {
      const [kept] = await readByIds(redis, config, "session", ["kept"]);
      assert.deepEqual(kept, { stays: true });
    }
    return count;
  })();
  const shapes: [number, boolean][] = [[4, false], [3, false], [1, true], [1, false], [5, false]];
  for (const [to, tagged] of shapes) {
    const before = author.events;
    const { moved } = await repartition(redis, [target], config, "session", { to, tagged });
    assert(moved > 0, `${to}: ${moved} moved`);
    await waitFor(() => author.events > before + 50, { what: "writes", deadlineMs: 60_000 });
  }
  await writing.stop();
  reading.abort();
  assert(await reads > 100);
  assert.deepEqual(failed, [], "to wait is no failure");
  await deleteDocument(redis, config, "session", "kept");
  await assertSame(redis, target, config, author.documents().size);
  await assertOnce(pipeline, author);
  const left = (await redis.keys("session:*")).filter((key) =>
    !/^session:\{session-[0-4]\}:/.test(key)
  );
  assert.deepEqual(left, []);
});

Deno.test("parked events, receipts of requests and the index come along", async () => {
  await fresh();
  const { pool } = pipeline;
  await using own = await using();
  const { redis, config, target } = own;
  const ids = Array.from({ length: 30 }, (_, n) => `d${n}`);
  await createSearchIndex(redis, config, "session");
  const insert = (id: string, requestId?: string) =>
    insertDocument(redis, config, "session", { user_id: "u1", n: 1 }, id, { requestId });
  const receipts = await Promise.all(ids.map((id) => insert(id, `r-${id}`)));
  // An older version has not noted which document it is.
  await redis.hdel("request:session:r-d3", "doc_id");
  await redis.expire("request:session:r-d4", 300);
  await drain({ redis, pool, config });
  const ms = Date.now() - 1;
  await pool.query(`ALTER TABLE sessions ADD CONSTRAINT small CHECK ((payload->>'n')::int < 9)`);
  try {
    for (const id of ids) {
      await updateDocument(redis, config, "session", id, { n: 10 });
      await updateDocument(redis, config, "session", id, { n: 11 });
    }
    await drain({ redis, pool, config });
    for (const to of [4, 3, 1]) {
      await repartition(redis, [target], config, "session", { to });
      const { rows } = await pool.query(
        "SELECT stream, convert_from(doc_id, 'utf8') AS id, stream_id FROM writebehind_dead_letter ORDER BY id",
      );
      assert.equal(rows.length, 60);
      for (const { stream, id } of rows) {
        const key = documentKey(config, "session", id);
        const [keys] = allPartitions(config, "session").filter((one) =>
          key.startsWith(one.documentPrefix)
        );
        assert.equal(stream, keys!.stream, id);
      }
      // From now on the streams have ids in common, which are to stay apart, and in their order for each document.
      const renumber = `UPDATE writebehind_dead_letter d SET stream_id = o.stream_id
           FROM (SELECT id, $1 || '-' || row_number() OVER (PARTITION BY stream ORDER BY id) AS stream_id
                   FROM writebehind_dead_letter) AS o WHERE o.id = d.id`;
      if (to === 4) await pool.query(renumber, [ms]);
      const filter = { text: { user_id: "u1" } };
      assert.equal((await search(redis, config, "session", filter)).total, 30);
      for (const id of ["d3", "d4", "d5"]) {
        const again = await insert(id, `r-${id}`);
        assert.deepEqual(again, { ...receipts[ids.indexOf(id)], repeated: true });
      }
    }
  } finally {
    await pool.query("ALTER TABLE sessions DROP CONSTRAINT small");
  }
  const replayed = await replayDeadLetters(redis, target, config, "session", { all: true });
  assert.deepEqual(replayed, { applied: 30, gone: 0, superseded: 30, failed: 0 });
  await assertSame(redis, target, config, 30);
  const { rows: [row] } = await pool.query(
    "SELECT count(*)::int FROM sessions WHERE payload->>'n' = '11'",
  );
  assert.equal(row.count, 30);
});

Deno.test("of many partitions, sinks give all back at once", async () => {
  await fresh();
  await using many = await using(120);
  await insertDocument(many.redis, many.config, "session", { n: 1 }, "d1");
  await using own = await using();
  const { redis, config, target } = own;
  await using _sink = consumePeriodically(redis, target, config, "session");
  const steps: number[] = [];
  const onStep = () => steps.push(performance.now());
  await repartition(redis, [target], config, "session", { to: 2, onStep });
  // Each by itself looks around every 12 s.
  const [, stopping, moving] = steps;
  assert(moving! - stopping! < 7000, `${moving! - stopping!} ms`);
  await assertSame(redis, target, config, 1);
});

Deno.test("what cannot begin is refused in one line, and nothing has moved", async (t) => {
  await fresh();
  const { pool } = pipeline;
  await using own = await using();
  const { redis, config, target } = own;
  const refused = (
    why: RegExp,
    options: Partial<Parameters<typeof repartition>[4]> = {},
    entity = "session",
    targets: Target[] = [target],
  ) =>
    assert.rejects(
      repartition(redis, targets, config, entity, { to: 4, patienceMs: 300, ...options }),
      (error: Error) => {
        assert.match(error.message, why);
        assert(!error.message.includes("\n"), error.message);
        return true;
      },
    );
  await refused(/nothing was ever written to session/);
  await insertDocument(redis, config, "session", { n: 1 }, "d1");
  const keysNow = async () =>
    (await redis.keys("*")).filter((key) => !/^(metrics|log|stream:lastid):/.test(key)).sort();
  const keys = await keysNow();
  const writes = async () => {
    await insertDocument(redis, config, "session", { n: 1 }, "d2");
    await deleteDocument(redis, config, "session", "d2");
    assert.deepEqual(await keysNow(), keys);
  };
  const cases: Record<string, () => Promise<unknown>> = {
    "numbers and entities that there are not": async () => {
      await refused(/no entity "other"/, {}, "other");
      await refused(/session has 1 partitions already/, { to: 1 });
      for (const to of [0, 257, 1.5, undefined]) await refused(/1 to 256, got/, { to });
      await refused(/there is nothing to take back/, { back: true });
    },
    "a target that nobody carries on to": () =>
      refused(
        /the target postgresql is behind: stream:session is at 0-0, not at \d+-\d+; no sink owns it/,
      ),
    "one that is paused": async () => {
      await drain({ redis, pool, config });
      await insertDocument(redis, config, "session", { n: 1 }, "d3");
      await deleteDocument(redis, config, "session", "d3");
      await pauseTarget(redis, config, "session", "postgresql");
      await refused(/it is paused: run deno task target resume postgresql/);
      await resumeTarget(redis, config, "session", "postgresql");
    },
    "one that the configuration lacks": () =>
      refused(
        /kept for the target postgresql, which is not in the configuration/,
        {},
        "session",
        [],
      ),
    "one whose sink does not move": async () => {
      // A lock that somebody holds keeps the batch waiting.
      const locking = await pool.connect();
      await locking.query("BEGIN; LOCK TABLE sessions");
      const sink = consumePeriodically(redis, target, config, "session");
      try {
        await refused(
          /for 0.3 s nothing has moved: the target postgresql is behind: .* see the last error/,
        );
      } finally {
        await locking.query("ROLLBACK");
        locking.release();
        await sink.stop();
      }
    },
    "an id that is like a tag": async () => {
      await insertDocument(redis, config, "session", {}, "{session-0}:d9");
      await drain({ redis, pool, config });
      await refused(/the id "\{session-0\}:d9" of session begins as the names of partitions do/);
      await deleteDocument(redis, config, "session", "{session-0}:d9");
    },
    "a cache": async () => {
      await redis.hset("stream:settings:session", "cache", "on");
      const cached = configWith(config, {
        entities: [{ ...config.entities[0]!, cache: { enabled: true } }],
      });
      await assert.rejects(
        repartition(redis, [target], cached, "session", { to: 4 }),
        /^ConfigError: Cannot repartition session: its cache may .*: deno task cache off --entity session$/,
      );
      await redis.hdel("stream:settings:session", "cache");
    },
    "two at once": async () => {
      await drain({ redis, pool, config });
      await redis.set(LOCK, "other", "PX", 60_000);
      await refused(/session is being repartitioned by another process/);
      await redis.del(LOCK);
    },
  };
  for (const [name, run] of Object.entries(cases)) {
    await t.step(name, async () => {
      await run();
      if (name === "one whose sink does not move") await drain({ redis, pool, config });
      await writes();
    });
  }
  await drain({ redis, pool, config });
  await repartition(redis, [target], config, "session", { to: 4 });
  await assertSame(redis, target, config, 1);
});

Deno.test("a fixed number that is not true any more is refused in one line that names both", async () => {
  await fresh();
  await using old = await using(2);
  const { redis, config, target } = old;
  const { pool } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "d1");
  // A clock that was set back leaves ids that are ahead of it.
  const { stream } = allPartitions(config, "session").find(({ documentPrefix }) =>
    documentKey(config, "session", "d1").startsWith(documentPrefix)
  )!;
  await redis.xsetid(stream, `${Date.now() + 3_600_000}-7`);
  const before = await insertDocument(redis, config, "session", { n: 1 }, "d1", {
    overwrite: true,
  });
  await drain({ redis, pool, config });
  await using sink = consumePeriodically(redis, target, config, "session");
  await repartition(redis, [target], config, "session", { to: 8 });
  const both = /streams\.partitions: expected 8, .* got 2; use 8$/;
  await waitFor(() => both.test(sink.lastError?.message ?? ""), { what: "the sink's error" });
  await sink.stop();
  const calls = [
    () => connectRedis(config),
    () => verify(redis, target, config, "session"),
    () => readStatus(redis, target, config, "session"),
    () => readByIds(redis, config, "session", ["d1"]),
  ];
  for (const call of calls) {
    await assert.rejects(
      call(),
      (error) => error instanceof ConfigError && both.test(error.message),
    );
  }
  for (const id of ["d1", "d2", "d3", "d4", "d5", "d6"]) {
    const write = insertDocument(redis, config, "session", { n: 2 }, id, { overwrite: true });
    await assert.rejects(write, (error) => {
      assert(error instanceof DocumentError && error.code === "partitions");
      assert.match(error.message, /with streams\.partitions: (2 into )?8/);
      return true;
    });
    // Also where the change would not be forwarded.
    const off = configWith(config, { dummy_data: { perform_write_behind: { update: false } } });
    await assert.rejects(
      updateDocument(redis, off, "session", id, { n: 2 }),
      /streams\.partitions/,
    );
  }
  await using now = await using();
  assert.equal((await verify(now.redis, now.target, now.config, "session")).documents, 1);
  for (let n = 0; n < 16; n++) {
    const { version } = await insertDocument(now.redis, now.config, "session", { n }, `e${n}`);
    assert(version! > before.version!, `${version}`);
  }
});

Deno.test("to SQLite, from one partition to a tagged one and back, with two targets", async () => {
  await using server = await testRedis();
  const folder = testFolder("repartition");
  const config = configWith(
    configWith(pipeline.config, {
      redis: { host: server.host, port: server.port },
      targets: ["a", "b"].map((name) => ({
        name,
        kind: "sqlite" as const,
        path: `${folder}/${name}.db`,
      })),
    }),
    AUTO,
  );
  await using redis = await connectRedis(config);
  await using a = await openTarget(config, "a");
  await using b = await openTarget(config, "b");
  const author = new Author(redis, config, { random: seededRandom(5), paceMs: 1 });
  await author.write({ calls: 200 });
  await using _one = consumePeriodically(redis, a, config, "session");
  await using _other = consumePeriodically(redis, b, config, "session");
  const writing = author.start();
  for (const [to, tagged] of [[1, true], [3, false], [1, false]] as const) {
    const { from } = await repartition(redis, [a, b], config, "session", { to, tagged });
    assert.equal(from, to === 3 ? "1 tagged" : to === 1 && tagged ? "1" : "3");
    const before = author.events;
    await waitFor(() => author.events > before + 20, { what: "writes", deadlineMs: 60_000 });
  }
  await writing.stop();
  for (const target of [a, b]) await assertSame(redis, target, config, author.documents().size);
});

/** Places at which it is killed, in their order; the first three can be taken back. */
const PLACES = [
  ...["marked", "drained", "pausing", "stopped", "documents", "requests", "targets", "switching"],
  ...["switched", "indexed"],
];
const REVERSIBLE = PLACES.slice(0, 3);

Deno.test("killed at every step, it goes on when it is run again, or is taken back", async (t) => {
  await fresh();
  await using own = await using();
  const { redis, config, target } = own;
  const author = new Author(redis, config, { random: seededRandom(9), paceMs: 2 });
  await author.write({ calls: 100 });
  await using _sink = consumePeriodically(redis, target, config, "session");
  const writing = author.start();
  const path = await configFile({ streams: { partitions: 1 } });
  const options = ["--config", path, "--entity", "session"];
  const command = (more: string[]) =>
    startTask(["repartition", ...options, ...more], environmentOf(config));
  let to = 1;
  const killedAt = async (place: string) => {
    to = 1 + to % 4;
    await killUnderWay(place, [...options, "--to", String(to)], { redis, target, config });
  };
  const goesOn = async () => {
    const before = author.events;
    await waitFor(() => author.events > before + 10, { what: "writes", deadlineMs: 60_000 });
  };
  for (const place of PLACES) {
    await t.step(place, async () => {
      await killedAt(place);
      await assert.rejects(
        repartition(redis, [target], config, "session", { to: 9 }),
        /from \d to \d is under way: run it again with --to \d, or with --back/,
      );
      if (!REVERSIBLE.includes(place)) {
        const back = repartition(redis, [target], config, "session", { back: true });
        await assert.rejects(
          back,
          /Cannot take back the repartition of session: documents have begun/,
        );
      }
      if (place === "documents") {
        await using again = command(["--to", String(to)]);
        assert.equal((await again.status).code, 0, again.output());
        assert.match(
          again.output(),
          new RegExp(`session has ${to} partitions, before \\d; \\d+ documents`),
        );
      } else await repartition(redis, [target], config, "session", { to });
      await goesOn();
    });
  }
  for (const place of REVERSIBLE) {
    await t.step(`${place}, and taken back`, async () => {
      const before = to;
      await killedAt(place);
      const report = await repartition(redis, [target], config, "session", { back: true });
      assert.deepEqual([report.back, report.from], [true, String(before)]);
      to = before;
      await goesOn();
    });
  }
  await t.step(
    "Ctrl-C: what has not moved is taken back, else it goes on when it is run again",
    async () => {
      const stop = (when: RegExp | "progress") => {
        const end = new AbortController();
        const abort = () => end.abort(new Error("stopped"));
        return repartition(redis, [target], config, "session", {
          to: 6,
          signal: end.signal,
          onStep: (what) => when !== "progress" && when.test(what) && abort(),
          onProgress: () => when === "progress" && abort(),
        });
      };
      await assert.rejects(stop(/give their partitions back/), /^Error: stopped$/);
      await goesOn();
      await assert.rejects(stop("progress"), /^Error: stopped$/);
      assert.equal((await repartition(redis, [target], config, "session", { to: 6 })).to, "6");
      await goesOn();
    },
  );
  await writing.stop();
  await assertSame(redis, target, config, author.documents().size);
  await assertOnce(pipeline, author);
});
