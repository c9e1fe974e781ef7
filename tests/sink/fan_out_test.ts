/** Several targets of one stream: each on its own, and nothing is trimmed that one of them lacks. */

import assert from "node:assert/strict";
import {
  addTarget,
  BackpressureError,
  caughtUp,
  type Config,
  ConfigError,
  configWith,
  deleteDocument,
  insertDocument,
  listTargets,
  openTarget,
  pauseTarget,
  RedisWriteBehind,
  removeTarget,
  resumeTarget,
  type Target,
  updateDocument,
  verify,
} from "writebehind";
import { readRegistrations, setState } from "writebehind/redis/registrations.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { runScript, trimScript } from "writebehind/redis/scripts/mod.ts";
import { type Pipeline, testPipeline } from "../support/pipeline.ts";
import { testFolder, waitFor } from "../support/servers.ts";

const STREAM = "stream:session";

interface FanOut extends AsyncDisposable {
  pipeline: Pipeline;
  config: Config;
  postgres: Target;
  file: Target;
}

/** PostgreSQL and a SQLite file behind one Redis. */
async function fanOut(
  onFull: "stop" | "detach" = "stop",
  streams: Partial<Config["streams"]> = {},
): Promise<FanOut> {
  await using stack = new AsyncDisposableStack();
  const pipeline = stack.use(await testPipeline({ streams }));
  const config = pipeline.with({
    targets: [
      { name: "postgresql", kind: "postgresql" },
      { name: "file", kind: "sqlite", path: `${testFolder("fan")}/rows.db`, on_full: onFull },
    ],
    write_behind: { lease_seconds: 2 },
  });
  const postgres = stack.use(await openTarget(config, "postgresql"));
  const file = stack.use(await openTarget(config, "file"));
  const owned = stack.move();
  return { pipeline, config, postgres, file, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function drain({ pipeline: { redis }, config }: FanOut, target: Target) {
  await using sink = new RedisWriteBehind(redis, target, config, "session");
  return await sink.drain();
}

async function write({ pipeline: { redis }, config }: FanOut, from: number, count: number) {
  for (let index = from; index < from + count; index++) {
    await insertDocument(redis, config, "session", { n: index }, `d${index}`);
  }
}

async function equal({ pipeline: { redis }, config }: FanOut, target: Target) {
  const report = await verify(redis, target, config, "session");
  assert.deepEqual([report.mismatches, report.counts.behind], [[], 0]);
  return report.documents;
}

const lengthOf = ({ pipeline: { redis } }: FanOut) => redis.xlen(STREAM);

Deno.test("fan-out: each target has an offset of its own, and the slowest holds up the trimming alone", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, postgres, file } = both;
  await write(both, 0, 20);
  await drain(both, postgres);
  assert.equal(await equal(both, postgres), 20);
  assert.equal(await lengthOf(both), 20); // nobody has registered the file
  await drain(both, file);
  assert.equal(await equal(both, file), 20);
  await updateDocument(redis, config, "session", "d1", { n: -1 });
  await deleteDocument(redis, config, "session", "d2");
  await drain(both, file);
  assert.equal(await lengthOf(both), 3); // PostgreSQL's witness, and what it lacks
  await drain(both, postgres);
  assert.equal(await lengthOf(both), 1);
  assert.equal(await equal(both, postgres), 19);
  assert.equal(await equal(both, file), 19);
  const [known, other] = await readRegistrations(redis, partitionKeys(config, "session", 0));
  assert.deepEqual([known!.name, known!.state, other!.name], ["file", "active", "postgresql"]);
  assert.equal(known!.offset, other!.offset);
  const groups = (await redis.xinfo("GROUPS", STREAM) as string[][]).map((group) => group[1]);
  assert.deepEqual(groups, ["writebehind", "writebehind:file"]);
});

Deno.test("fan-out: a target that is behind is named to writers that are told to stop", async () => {
  await using both = await fanOut("stop", { max_events: 10 });
  await drain(both, both.file);
  await write(both, 0, 10);
  await drain(both, both.postgres);
  await assert.rejects(
    write(both, 10, 1),
    (error: Error) =>
      error instanceof BackpressureError &&
      /stream:session holds 10 events, its max_events; the target file is behind: see that its sink runs/
        .test(error.message),
  );
  await drain(both, both.file);
  await write(both, 10, 1);
});

Deno.test("fan-out: where the target that has filled the stream is removed, writers go on", async () => {
  await using both = await fanOut("stop", { max_events: 10 });
  const { pipeline: { redis }, config, postgres, file } = both;
  await drain(both, file);
  await using sink = new RedisWriteBehind(redis, postgres, config, "session");
  sink.start();
  await write(both, 0, 10);
  await waitFor(() => sink.status.events === 10, { what: "PostgreSQL" });
  await assert.rejects(write(both, 10, 1), BackpressureError);
  await removeTarget(redis, config, "session", "file");
  await waitFor(() => write(both, 10, 1).then(() => true), { what: "the writers" });
});

Deno.test("fan-out: with on_full: detach a target loses its place, loudly, and writers go on", async () => {
  await using both = await fanOut("detach", { max_events: 10 });
  const { pipeline: { redis }, config, postgres, file } = both;
  await drain(both, file);
  await write(both, 0, 10);
  await using sink = new RedisWriteBehind(redis, postgres, config, "session");
  const lost: string[] = [];
  sink.events.on("detached", ({ target }) => lost.push(target));
  await sink.drain();
  assert.deepEqual(lost, ["file"]);
  assert.equal(await lengthOf(both), 1);
  await write(both, 10, 5);
  await assert.rejects(
    drain(both, file),
    (error: Error) =>
      error instanceof ConfigError &&
      /the target file was so far behind that it has lost its place \(stream:session\): run deno task target add file/
        .test(error.message),
  );
  await drain(both, postgres);
  assert.equal(await equal(both, postgres), 15);
});

Deno.test("fan-out: a full Redis is drained by all of them", async () => {
  await using both = await fanOut();
  const { pipeline: { redis } } = both;
  await write(both, 0, 200);
  await redis.config("SET", "maxmemory", "1");
  try {
    await drain(both, both.file);
    await drain(both, both.postgres);
    await drain(both, both.file);
    assert.equal(await lengthOf(both), 1);
  } finally {
    await redis.config("SET", "maxmemory", "0");
  }
  assert.equal(await equal(both, both.file), 200);
});

Deno.test("fan-out: where the stream went back, nothing is trimmed before every target has rewound", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config } = both;
  await write(both, 0, 20);
  await drain(both, both.postgres);
  await drain(both, both.file);
  const older = await redis.dumpBuffer(STREAM);
  await write(both, 20, 10);
  await drain(both, both.file); // it is ahead of PostgreSQL now
  // An older state of Redis: the last ten documents are gone, and so is the file's witness.
  await redis.restore(STREAM, 0, older, "REPLACE");
  for (let index = 20; index < 30; index++) await redis.del(`session:d${index}`);
  const [newest] = await redis.xrevrange(STREAM, "+", "-", "COUNT", 1);
  // Ids below the file's offset: only PostgreSQL reads them as they are.
  const [ms, seq] = newest![0].split("-");
  for (let index = 0; index < 5; index++) {
    const payload = JSON.stringify({ n: index, again: true });
    await redis.call("JSON.SET", `session:d${index}`, "$", payload);
    const id = `${ms}-${Number(seq) + 1 + index}`;
    const event = ["ts", "1", "doc_id", `d${index}`, "event_type", "update", "payload", payload];
    await redis.xadd(STREAM, id, ...event);
  }
  await drain(both, both.postgres);
  assert((await lengthOf(both)) >= 5, "the file has not seen them");
  await drain(both, both.file);
  await drain(both, both.postgres);
  await drain(both, both.file);
  const of = async (target: Target) => await verify(redis, target, config, "session");
  assert.deepEqual((await of(both.postgres)).mismatches, []);
  // What was lost and never in PostgreSQL: its rows are extra in the file, as verify says.
  assert.deepEqual(
    (await of(both.file)).mismatches.map(({ difference }) => difference),
    Array(10).fill("extra"),
  );
});

Deno.test("fan-out: a paused target keeps its events, and goes on where it was", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, file } = both;
  const keys = partitionKeys(config, "session", 0);
  await write(both, 0, 5);
  await using sink = new RedisWriteBehind(redis, file, config, "session");
  const seen: string[] = [];
  sink.events.onAll((name) => seen.push(name));
  sink.start();
  await waitFor(() => sink.status.events === 5, { what: "events applied" });
  assert(await setState(redis, keys, "file", "paused"));
  await waitFor(() => seen.includes("paused"), { what: "the pause" });
  await write(both, 5, 5);
  await drain(both, both.postgres);
  assert((await lengthOf(both)) >= 5);
  assert.equal((await file.offsets.standing(keys)).live, false); // nobody holds the lease
  assert.equal(sink.status.events, 5);
  await setState(redis, keys, "file", "active");
  await waitFor(() => sink.status.events === 10, { what: "the rest" });
  assert.equal(await equal(both, file), 10);
});

Deno.test("fan-out: a target is added to a pipeline that runs, with nothing missing and nothing stopped", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, postgres, file } = both;
  const alone = configWith(both.config, { targets: [both.config.targets[0]!] });
  const keys = partitionKeys(alone, "session", 0);
  await using sink = new RedisWriteBehind(redis, postgres, alone, "session");
  sink.start();
  await write(both, 0, 3000);
  await deleteDocument(redis, alone, "session", "d7");
  await waitFor(() => sink.status.events === 3001, { what: "PostgreSQL", deadlineMs: 20_000 });
  // Without being added it is refused: most of the stream is gone.
  await assert.rejects(
    drain(both, file),
    (error: Error) =>
      error instanceof ConfigError && /run deno task target add file/.test(error.message),
  );
  let more = 3000;
  const writing = new AbortController();
  const writer = (async () => {
    while (!writing.signal.aborted) {
      await write(both, more++, 1);
      await updateDocument(redis, alone, "session", `d${more % 3000 || 1}`, { again: more })
        .catch((error) => assert.equal(error.code, "missing"));
    }
  })();
  const progress: number[] = [];
  const report = await addTarget(redis, file, both.config, "session", {
    onProgress: (done) => progress.push(done),
  });
  writing.abort();
  await writer;
  assert(report.rows >= 2999 && progress.length > 1);
  assert.deepEqual([report.streams, report.refusedDocuments], [[STREAM], 0]);
  assert.deepEqual(await addTarget(redis, file, both.config, "session"), {
    ...{ streams: [], rows: 0, removed: 0, refused: [], refusedDocuments: 0 },
  });
  await drain(both, file);
  assert.equal(await equal(both, file), await equal(both, postgres));
  assert.equal((await readRegistrations(redis, keys)).length, 2);
});

Deno.test("fan-out: filling is stopped half way, and begun again; what Redis has lost goes from the rows", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, postgres, file } = both;
  await write(both, 0, 2000);
  await drain(both, file);
  await drain(both, postgres);
  assert.deepEqual(await removeTarget(redis, config, "session", "file", { dryRun: true }), [
    { stream: STREAM, events: 0 },
  ]);
  await removeTarget(redis, config, "session", "file");
  await deleteDocument(redis, config, "session", "d3");
  await updateDocument(redis, config, "session", "d4", { n: -4 });
  await drain(both, postgres);
  await drain(both, postgres);
  assert.equal(await lengthOf(both), 1);
  await assert.rejects(drain(both, file), /the target file was removed/);
  const stop = new AbortController();
  await assert.rejects(
    addTarget(redis, file, config, "session", {
      onProgress: () => stop.abort(new Error("stopped by a test")),
      signal: stop.signal,
    }),
    /stopped by a test/,
  );
  await assert.rejects(drain(both, file), /is being added, or that was stopped half way/);
  const { removed, rows } = await addTarget(redis, file, config, "session");
  assert.deepEqual([removed, rows], [1, 1999]);
  await drain(both, file);
  assert.equal(await equal(both, file), 1999);
});

Deno.test("fan-out: a target that loses its place while it is filled does not go on with a gap", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, file } = both;
  await write(both, 0, 20);
  const keys = partitionKeys(config, "session", 0);
  await assert.rejects(
    addTarget(redis, file, config, "session", {
      onProgress: () => void setState(redis, keys, "file", "detached"),
    }),
    /the target file was detached while it was filled \(stream:session\); run this again/,
  );
  await assert.rejects(drain(both, file), /has lost its place/);
  assert.equal((await addTarget(redis, file, config, "session")).rows, 20);
});

Deno.test("fan-out: the others count as caught up where a target was added and nothing written since", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, postgres, file } = both;
  await write(both, 0, 3);
  await drain(both, postgres);
  await addTarget(redis, file, config, "session");
  for (const target of [postgres, file]) {
    await caughtUp(redis, target, config, "session", { deadlineMs: 1000 });
  }
});

Deno.test("fan-out: what a target refuses is told when it is filled, and is in the others", async () => {
  await using both = await fanOut();
  const { pipeline: { redis, pool }, config, postgres, file } = both;
  await write(both, 0, 50);
  await drain(both, file);
  await pool.query("ALTER TABLE sessions ADD CHECK (payload->>'n' <> '13')");
  const { rows, refused } = await addTarget(redis, postgres, config, "session");
  assert.equal(rows, 49);
  assert.deepEqual(refused.map(({ id }) => id), ["d13"]);
  assert.match(refused[0]!.reason, /sessions_payload_check/);
});

Deno.test("fan-out: the list says who holds up the trimming", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, postgres, file } = both;
  const list = async () =>
    (await listTargets(redis, config, "session")).map(({ name, state, lagEvents, holdsUp }) =>
      [name, state, lagEvents, holdsUp].join(" ")
    );
  await write(both, 0, 5);
  assert.deepEqual(await list(), ["postgresql  5 true", "file  5 true"]);
  await drain(both, postgres);
  assert.deepEqual(await list(), ["postgresql active 0 false", "file  5 true"]);
  await drain(both, file);
  await pauseTarget(redis, config, "session", "file");
  await write(both, 5, 2);
  await drain(both, postgres);
  assert.deepEqual(await list(), ["postgresql active 0 false", "file paused 2 true"]);
  await assert.rejects(drain(both, file), /the target file is paused .*target resume file/);
  await resumeTarget(redis, config, "session", "file");
  await drain(both, file);
  assert.deepEqual(await list(), ["postgresql active 0 false", "file active 0 false"]);
  await assert.rejects(
    pauseTarget(redis, config, "session", "fiel"),
    /neither the configuration nor the streams of session know a target "fiel"; they know: file, postgresql/,
  );
});

Deno.test("fan-out: targets that begin at the same time agree on whose data they are", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config, postgres, file } = both;
  const keys = partitionKeys(config, "session", 0);
  await write(both, 0, 3);
  // Both look before either has noted anything.
  const release = Promise.withResolvers<void>();
  const all = [postgres, file];
  let looked = 0;
  for (const target of all) {
    const read = target.identities.read.bind(target.identities);
    target.identities.read = async (...given) => {
      const found = await read(...given);
      if (++looked === all.length) release.resolve();
      await release.promise;
      return found;
    };
  }
  await Promise.all(all.map((target) => drain(both, target)));
  const identity = await redis.hget(keys.settings, "identity");
  for (const target of all) {
    assert.equal((await target.identities.read(keys, [STREAM])).source, identity);
  }
});

Deno.test("a trim by an offset of before a mending removes nothing", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config } = both;
  const { stream, lastId, settings } = partitionKeys(config, "session", 0);
  await write(both, 0, 3);
  const args = ["postgresql", "9000000000000-0", "0-0", "writebehind", "4", "0-0", "0"];
  const reply = await runScript(redis, trimScript, [stream, lastId, settings], [
    ...args,
    ...["postgresql", "stop"],
  ]);
  assert.deepEqual(reply, [-1, "", "", 0]);
  assert.equal(await lengthOf(both), 3);
});

Deno.test("a trim looks once for each entry that must still be there", async () => {
  await using both = await fanOut();
  const { pipeline: { redis }, config } = both;
  const { stream, lastId, settings } = partitionKeys(config, "session", 0);
  await write(both, 0, 3);
  const [first, second] = (await redis.xrange(stream, "-", "+")).map(([id]) => id);
  const looks = async () =>
    Number(/^cmdstat_xrange:calls=(\d+)/m.exec(await redis.info("commandstats"))?.[1] ?? 0);
  const before = await looks();
  const args = ["postgresql", second!, second!, "writebehind", "2", first!, "0"];
  const reply = await runScript(redis, trimScript, [stream, lastId, settings], [
    ...args,
    ...["postgresql", "stop"],
  ]);
  assert.deepEqual(reply, [1, "active", second, 0]);
  assert.equal(await looks() - before, 2);
});
