import assert from "node:assert/strict";
import {
  consumePeriodically,
  createTable,
  insertDocument,
  openTarget,
  RedisWriteBehind,
  replayDeadLetters,
  type Target,
} from "writebehind";
import type { Batches } from "writebehind/targets/target.ts";
import { drain, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** Raises an error code for documents that a condition names. */
const trigger = (code: string, condition: string, timing = "BEFORE") =>
  `
  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF ${condition} THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '${code}'; END IF;
    RETURN NEW; END $$;
  CREATE ${timing} INSERT OR UPDATE ON sessions ${
    timing.startsWith("CONSTRAINT") ? "DEFERRABLE INITIALLY DEFERRED " : ""
  }FOR EACH ROW EXECUTE FUNCTION refuse();`.replace(
    /CREATE (BEFORE|AFTER)/,
    "CREATE TRIGGER refuse $1",
  ).replace("CREATE CONSTRAINT AFTER", "CREATE CONSTRAINT TRIGGER refuse AFTER");

/** What makes PostgreSQL refuse the document `bad`, and it alone. */
const PLACES: Record<string, string> = {
  ...Object.fromEntries(
    [
      "UE001",
      "45000",
      "P0001",
      "P0002",
      "20000",
      "XX000",
      "0A000",
      "42P01",
      "42601",
      "42501",
      "55000",
    ]
      .map((code) => [`a trigger, ${code}`, trigger(code, "NEW.id = 'bad'")]),
  ),
  "a trigger behind the row, UE001": trigger("UE001", "NEW.id = 'bad'", "AFTER"),
  "a deferred trigger, UE001": trigger("UE001", "NEW.id = 'bad'", "CONSTRAINT AFTER"),
  "a trigger that always finds a serialization failure": trigger("40001", "NEW.id = 'bad'"),
  "a trigger that is always cancelled": trigger("57014", "NEW.id = 'bad'"),
  "a deferred foreign key": `
    CREATE TABLE kinds (name TEXT PRIMARY KEY); INSERT INTO kinds VALUES ('good');
    ALTER TABLE sessions ADD COLUMN kind TEXT GENERATED ALWAYS AS (payload->>'kind') STORED
      REFERENCES kinds DEFERRABLE INITIALLY DEFERRED`,
  "a foreign key in another schema": `
    CREATE SCHEMA other; CREATE TABLE other.kinds (name TEXT PRIMARY KEY);
    INSERT INTO other.kinds VALUES ('good');
    ALTER TABLE sessions ADD COLUMN kind TEXT GENERATED ALWAYS AS (payload->>'kind') STORED
      REFERENCES other.kinds`,
  "a value too long for a generated column": `
    ALTER TABLE sessions ADD COLUMN kind VARCHAR(4) GENERATED ALWAYS AS (payload->>'kind') STORED`,
  "a value that a generated column cannot cast": `
    ALTER TABLE sessions ADD COLUMN n INTEGER GENERATED ALWAYS AS ((payload->>'n')::int) STORED`,
  "an index row that is too large": "CREATE INDEX ON sessions ((payload->>'long'))",
  "an exclusion constraint": `
    ALTER TABLE sessions ADD EXCLUDE USING btree ((payload->>'kind') WITH =) WHERE (id IN ('bad', 'other'));
    INSERT INTO sessions (id, payload) VALUES ('other', '{"kind": "odd kind"}')`,
};

/** Text that does not compress, so that it is too long for an index. */
const long = Array.from(
  { length: 6000 },
  (_, n) => String.fromCodePoint(0x4e00 + (n * 7919) % 20000),
)
  .join("");
const DOCUMENTS = {
  before: { kind: "good", n: "1" },
  bad: { kind: "odd kind", n: "none", long },
  behind: { kind: "good", n: "2" },
};

const CLEAN = `
  DROP TABLE sessions; DROP FUNCTION IF EXISTS refuse; DROP TABLE IF EXISTS kinds;
  DROP SCHEMA IF EXISTS other CASCADE; TRUNCATE writebehind_offset, writebehind_dead_letter`;

async function ids({ pool }: Pipeline): Promise<{ rows: string[]; parked: string[] }> {
  const { rows } = await pool.query("SELECT id FROM sessions WHERE id <> 'other' ORDER BY id");
  const { rows: parked } = await pool.query(
    "SELECT convert_from(doc_id, 'UTF8') AS id FROM writebehind_dead_letter WHERE state = 'parked'",
  );
  return { rows: rows.map(({ id }) => id), parked: parked.map(({ id }) => id) };
}

for (const batch_size of [1, 10_000]) {
  Deno.test(`one document is refused: batches of ${batch_size}`, async (t) => {
    await using pipeline = await testPipeline({ write_behind: { batch_size } });
    const { redis, pool, config } = pipeline;
    for (const [place, sql] of Object.entries(PLACES)) {
      await t.step(place, async () => {
        await redis.flushall();
        await pool.query(sql);
        for (const [id, document] of Object.entries(DOCUMENTS)) {
          await insertDocument(redis, config, "session", document, id);
        }
        await using sink = consumePeriodically(redis, pool, config, "session");
        await waitFor(async () => (await ids(pipeline)).rows.length === 2, {
          what: `the others to go through; ${sink.lastError?.message}`,
          deadlineMs: 30_000,
        });
        assert.deepEqual(await ids(pipeline), { rows: ["before", "behind"], parked: ["bad"] });
        // Again alone, where nothing else goes through beside it.
        const all = { all: true } as const;
        const { applied, failed } = await replayDeadLetters(redis, pool, config, "session", all);
        assert.deepEqual({ applied, failed }, { applied: 0, failed: 1 });
        assert.deepEqual(await ids(pipeline), { rows: ["before", "behind"], parked: ["bad"] });
      });
      await pool.query(CLEAN);
      await createTable(pool, config, "session");
    }
  });

  Deno.test(`all documents are refused: batches of ${batch_size}`, async (t) => {
    await using pipeline = await testPipeline({ write_behind: { batch_size } });
    const { redis, pool, config } = pipeline;
    // A code that speaks of data is told from a document's fault by the rows that are there.
    const ofData = ["22003", "23502", "23514", "P0001"];
    for (const code of ["53100", "58030", "UE001", "XX000", "40001", "55000", ...ofData]) {
      await t.step(`a trigger, ${code}`, async () => {
        await redis.flushall();
        await pool.query("TRUNCATE sessions, writebehind_offset");
        const there = ofData.includes(code) ? ["there"] : [];
        for (const id of there) await insertDocument(redis, config, "session", {}, id);
        await drain(pipeline);
        await using sink = consumePeriodically(redis, pool, config, "session");
        await waitFor(() => sink.status.partitions[0]!.state === "owner", { what: "the claim" });
        await pool.query(trigger(code, "true"));
        for (const [id, document] of Object.entries(DOCUMENTS)) {
          await insertDocument(redis, config, "session", document, id);
        }
        await waitFor(() => sink.status.partitions[0]!.failuresInARow >= 5, {
          what: "failures",
          deadlineMs: 20_000,
        });
        await pool.query("DROP TRIGGER refuse ON sessions; DROP FUNCTION refuse");
        await waitFor(async () => (await ids(pipeline)).rows.length === 3 + there.length, {
          what: "all of them to go through",
        });
        assert.deepEqual((await ids(pipeline)).parked, []);
      });
    }
  });
}

/** How many documents a batch has, and before which attempt to find a bad one the table is back. */
const AWAY = { "many documents": [16, 6], "one document": [1, "works"] } as const;

Deno.test("a table that is away while rows are tried: no document is to blame", async (t) => {
  for (const [name, [documents, back]] of Object.entries(AWAY)) {
    await t.step(name, () => away(documents, back));
  }
});

async function away(documents: number, back: number | "works"): Promise<void> {
  await using pipeline = await testPipeline();
  const { redis, config, pool } = pipeline;
  await insertDocument(redis, config, "session", { n: 0 }, "first");
  await drain(pipeline);
  for (let n = 0; n < documents; n++) {
    await insertDocument(redis, config, "session", { n }, `d${n}`);
  }
  await using target = await openTarget(config);
  const rename = (from: string, to: string) => pool.query(`ALTER TABLE ${from} RENAME TO ${to}`);
  let probes = 0;
  const during = {
    // So that it is away when the batch is applied, and comes back in the midst of the halving.
    apply: () => probes === 0 ? rename("sessions", "away") : Promise.resolve(),
    probe: () => ++probes === back ? rename("away", "sessions") : Promise.resolve(),
    works: () => back === "works" ? rename("away", "sessions") : Promise.resolve(),
  };
  // The real target, with something that happens before two of its calls.
  const { batches } = target;
  const watched: Target = Object.assign(Object.create(target), {
    batches: {
      prepare: batches.prepare.bind(batches),
      parkedAmong: batches.parkedAmong.bind(batches),
      invalidPayloads: batches.invalidPayloads.bind(batches),
      works: (...args: Parameters<Batches["works"]>) =>
        during.works().then(() => batches.works(...args)),
      apply: (...args: Parameters<Batches["apply"]>) =>
        during.apply().then(() => batches.apply(...args)),
      probe: (...args: Parameters<Batches["probe"]>) =>
        during.probe().then(() => batches.probe(...args)),
    },
  });
  for (const name of ["describe", "kindOf", "migrate", "check", "close"] as const) {
    Object.assign(watched, { [name]: (target[name] as () => unknown).bind(target) });
  }
  await using sink = new RedisWriteBehind(redis, watched, config, "session");
  sink.start();
  await waitFor(() => sink.status.events === documents, { what: "the events" });
  assert(probes >= (back === "works" ? 1 : back), `${probes} probes`);
  assert.equal(sink.status.parked, 0);
}
