/** Rows that the target judges by other rows: each is judged at its own place in the stream, and nobody is blocked. */

import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import {
  type Config,
  deleteDocument,
  insertDocument,
  type JsonObject,
  listDeadLetters,
  type RedisConnection,
  RedisWriteBehind,
  replayDeadLetters,
  updateDocument,
  verify,
} from "writebehind";
import { withPipeline } from "../support/pipeline.ts";
import { filePipeline } from "../targets/pipelines.ts";

/** A pipeline on either target; SQLite's tables have no other unique key. */
interface Place {
  redis: RedisConnection;
  config: Config;
  target: ConstructorParameters<typeof RedisWriteBehind>[1];
}

const insert = async ({ redis, config }: Place, documents: Record<string, JsonObject>) => {
  for (const [id, document] of Object.entries(documents)) {
    await insertDocument(redis, config, "session", document, id);
  }
};

/** Applies all that waits, and compares: what is not parked is as in Redis. @returns the ids that are parked */
async function drained({ redis, config, target }: Place): Promise<string[]> {
  await using sink = new RedisWriteBehind(redis, target, config, "session");
  await sink.drain();
  const { counts } = await verify(redis, target, config, "session");
  assert.equal(counts.mismatches, 0);
  const letters = await Array.fromAsync(listDeadLetters(target, config, "session"));
  return letters.map(({ docId }) => docId!).sort();
}

/** Two new documents that exclude each other: alone, each would be fine. */
async function excluding(place: Place): Promise<void> {
  const { redis, config } = place;
  await insert(place, { before: { email: "a" }, bad: { email: "a" }, behind: { email: "b" } });
  assert.deepEqual(await drained(place), ["bad"]);
  await deleteDocument(redis, config, "session", "bad");
  assert.deepEqual(await drained(place), ["bad"]);
  await replayDeadLetters(redis, place.target, config, "session", { all: true });
  // What one gives up, another takes, in one batch: one that sorts before it, and behind it.
  await insert(place, { y: { email: "y" }, z: { email: "z" } });
  assert.deepEqual(await drained(place), []);
  await updateDocument(redis, config, "session", "z", { email: "other" });
  await deleteDocument(redis, config, "session", "y");
  await insert(place, { a: { email: "z" }, zz: { email: "y" } });
  assert.deepEqual(await drained(place), []);
  // Dense, and among documents that are refused for themselves.
  const many = Array.from({ length: 60 }, (_, n): [string, JsonObject] => [
    `many ${n}`,
    n % 10 === 5 ? { email: "b" } : n % 10 === 7 ? { email: `${n}`, odd: true } : { email: `${n}` },
  ]);
  await insert(place, Object.fromEntries(many));
  assert.equal((await drained(place)).length, 12);
}

/** Documents that need each other, of which none sorts as they were written. */
async function referring(place: Place): Promise<void> {
  const { redis, config, target } = place;
  await insert(place, {
    z: {},
    a: { parent: "z" },
    b: { parent: "a" },
    bad: { parent: "nobody" },
    "bad child": { parent: "bad" },
    c: { parent: "b" },
  });
  assert.deepEqual(await drained(place), ["bad", "bad child"]);
  await insert(place, { nobody: {} });
  assert.deepEqual(await drained(place), ["bad", "bad child"]);
  const all = { all: true } as const;
  const { applied, failed } = await replayDeadLetters(redis, target, config, "session", all);
  assert.deepEqual([applied, failed], [2, 0]);
  assert.deepEqual(await drained(place), []);
}

const ODD = "CHECK ((payload->>'odd') IS NULL)";

Deno.test("PostgreSQL judges rows by others", (t) =>
  withPipeline(t, {
    "a second unique key": async ({ redis, config, pool }) => {
      await pool.query(`
        ALTER TABLE sessions ADD CONSTRAINT odd ${ODD};
        CREATE UNIQUE INDEX one ON sessions ((payload->>'email'))`);
      await excluding({ redis, config, target: pool });
    },
    "a foreign key to itself": async ({ redis, config, pool }) => {
      await pool.query(`ALTER TABLE sessions ADD COLUMN parent TEXT
        GENERATED ALWAYS AS (payload->>'parent') STORED REFERENCES sessions`);
      await referring({ redis, config, target: pool });
    },
    "a deferred foreign key to itself": async ({ redis, config, pool }) => {
      await pool.query(`ALTER TABLE sessions ADD COLUMN parent TEXT
        GENERATED ALWAYS AS (payload->>'parent') STORED
        REFERENCES sessions DEFERRABLE INITIALLY DEFERRED`);
      await referring({ redis, config, target: pool });
    },
  }, ({ pool }) =>
    pool.query(`
      DROP INDEX IF EXISTS one; ALTER TABLE sessions DROP CONSTRAINT IF EXISTS odd;
      ALTER TABLE sessions DROP COLUMN IF EXISTS parent`)));

Deno.test("SQLite judges rows by others", async () => {
  await using pipeline = await filePipeline();
  const { config, target } = pipeline;
  await target.migrate("session");
  {
    using db = new DatabaseSync(pipeline.path, { timeout: 5000 });
    db.exec(`ALTER TABLE sessions ADD COLUMN parent TEXT
      GENERATED ALWAYS AS (payload->>'parent') VIRTUAL REFERENCES sessions`);
  }
  await referring({ ...pipeline, config, target });
});
