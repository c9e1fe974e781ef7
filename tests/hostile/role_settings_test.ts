/** Role settings × commands: each command does under each of them what it does under none. */

import assert from "node:assert/strict";
import {
  connectPostgres,
  createTable,
  insertDocument,
  listDeadLetters,
  readByIds,
  readStatus,
  rebuild,
  repairTarget,
  replayDeadLetters,
  verify,
} from "writebehind";
import { resetRole, ROLE_SETTINGS, setRole } from "../faults/administrator.ts";
import { drain, type Pipeline, reset, rowsOf, testPipeline } from "../support/pipeline.ts";

const DOCUMENTS = 20;
const at = Date.UTC(2026, 2, 4, 5, 6, 7, 89);

/** What is there before a command: rows, one of them wrong, and a parked document whose cause is mended. */
async function prepare(pipeline: Pipeline): Promise<void> {
  const { redis, config, pool } = pipeline;
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  for (let n = 0; n < DOCUMENTS; n++) {
    await insertDocument(
      redis,
      config,
      "session",
      { n, text: `back\\slash 'quote' ${at}` },
      `d${n}`,
    );
  }
  await insertDocument(redis, config, "session", { bad: true }, "parked");
  await drain(pipeline);
  await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
  await pool.query("UPDATE sessions SET payload = '{}' WHERE id = 'd7'");
}

/** Each command, and what of it must be the same. */
const COMMANDS: Record<string, (pipeline: Pipeline) => Promise<unknown>> = {
  sink: async (pipeline) => {
    await insertDocument(pipeline.redis, pipeline.config, "session", { late: 1 }, "late");
    const { events, parked } = await drain(pipeline);
    return { events, parked, row: (await rowsOf(pipeline)).get("late") };
  },
  status: async ({ redis, pool, config }) => {
    const [{ lagEvents, parked, stuck }] = await readStatus(redis, pool, config, "session") as [
      Awaited<ReturnType<typeof readStatus>>[0],
    ];
    return { lagEvents, parked, stuck };
  },
  verify: async ({ redis, pool, config }) => {
    const { equal, mismatches, counts } = await verify(redis, pool, config, "session");
    return { equal, counts, ids: mismatches.map(({ id }) => id) };
  },
  repair: async (pipeline) => {
    const { redis, pool, config } = pipeline;
    const { mismatches } = await verify(redis, pool, config, "session");
    const { mended } = await repairTarget(redis, config, "session", mismatches);
    await drain(pipeline);
    return { mended, row: (await rowsOf(pipeline)).get("d7") };
  },
  "dead letters": async ({ pool, config }) => {
    const letters = [];
    for await (const letter of listDeadLetters(pool, config, "session")) {
      letters.push({ id: letter.docId, sqlstate: letter.sqlstate });
      assert(
        Math.abs(letter.firstAt.getTime() - Date.now()) < 60_000,
        "times are told as they are",
      );
    }
    return letters;
  },
  replay: ({ redis, pool, config }) =>
    replayDeadLetters(redis, pool, config, "session", { all: true }),
  rebuild: async ({ redis, pool, config }) => {
    await replayDeadLetters(redis, pool, config, "session", { all: true });
    await redis.flushall();
    const { restored } = await rebuild(redis, pool, config, "session");
    return { restored, documents: await readByIds(redis, config, "session", ["d0", "d7"]) };
  },
  "create table": async ({ pool, config }) => {
    await createTable(pool, config, "session");
    const { rows } = await pool.query(
      "SELECT count(*)::int AS tables FROM pg_class WHERE relname = 'sessions'",
    );
    return rows;
  },
};

Deno.test("role settings × commands", async (t) => {
  await using pipeline = await testPipeline();
  const run = async (
    command: (pipeline: Pipeline) => Promise<unknown>,
    settings: readonly string[],
  ) => {
    await reset(pipeline);
    await prepare(pipeline);
    await setRole(pipeline, settings);
    try {
      await using pool = await connectPostgres(pipeline.config);
      return await command({ ...pipeline, pool });
    } finally {
      await resetRole(pipeline);
      while (!await pipeline.pool.query("SELECT").then(() => true, () => false)); // until ended connections are gone
    }
  };
  for (const [command, does] of Object.entries(COMMANDS)) {
    const expected = await run(does, []);
    for (const [name, settings] of Object.entries(ROLE_SETTINGS)) {
      await t.step(`a role that ${name}: ${command}`, async () => {
        assert.deepEqual(await run(does, settings), expected);
      });
    }
  }
});
