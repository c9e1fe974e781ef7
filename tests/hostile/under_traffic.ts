/** Runs what an administrator types beside writers and sinks, and judges by the ledger what became of it. */

import assert from "node:assert/strict";
import {
  caughtUp,
  type Random,
  type RedisConnection,
  RedisWriteBehind,
  repairTarget,
  replayDeadLetters,
  verify,
} from "writebehind";
import { reasonOf } from "writebehind/core/errors.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { resetRole } from "../faults/administrator.ts";
import { Author } from "../faults/author.ts";
import { clearLedger, keepLedger, noted } from "../faults/ledger.ts";
import { withSeed } from "../faults/seed.ts";
import {
  documentsOf,
  type Pipeline,
  reset,
  rowsOf,
  sorted,
  testPipeline,
} from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** Calls before the command, and again after it; the writers never pause. */
export const CALLS = 150;

/** A command, and what an administrator knows of it. */
export interface AdminCommand {
  run: (pipeline: Pipeline) => Promise<unknown>;
  /** puts back what it has changed for good, while the writers go on */
  restore?: (pipeline: Pipeline) => Promise<unknown>;
  /** it takes events away that no sink has read: `verify` finds their documents, and its repair sends them again */
  losesEvents?: boolean;
  /** it makes the table refuse some documents, and takes others: those are parked, and replayed when it is put back */
  parks?: boolean;
}

export const onStreams = (run: (redis: RedisConnection, stream: string) => Promise<unknown>) => {
  return ({ redis, config }: Pipeline) =>
    Promise.all(allPartitions(config, "session").map(({ stream }) => run(redis, stream)));
};

/** Puts back what a command has changed for good. */
async function restored(pipeline: Pipeline): Promise<void> {
  const { redis, pool } = pipeline;
  await resetRole(pipeline);
  await waitFor(() => pool.query("SELECT"), { what: "a connection that was not ended" });
  await pool.query("ALTER TABLE sessions DROP COLUMN IF EXISTS born");
  await redis.config("SET", "timeout", 0);
  await redis.config("SET", "maxmemory-clients", 0);
}

/** Runs what is under test beside so many sinks, on an emptied pipeline whose ledger begins. */
export async function beside(
  pipeline: Pipeline,
  sinks: number,
  run: () => Promise<void>,
): Promise<void> {
  const { redis, config, pool } = pipeline;
  await reset(pipeline);
  await clearLedger(pipeline);
  await using stack = new AsyncDisposableStack();
  const running = Array.from(
    { length: sinks },
    () => stack.use(new RedisWriteBehind(redis, pool, config, "session")),
  );
  for (const sink of running) sink.start();
  try {
    await run();
  } catch (error) {
    const errors = running.map(({ lastError }) => lastError?.message ?? "none");
    throw new Error(`${reasonOf(error)}; last errors: ${errors.join(" | ")}`, { cause: error });
  } finally {
    await restored(pipeline);
  }
}

export const settled = ({ redis, pool, config }: Pipeline) =>
  caughtUp(redis, pool, config, "session", { deadlineMs: 60_000 });

/** What the pages advise where events were lost: compare, and send again what differs. */
export async function repair(pipeline: Pipeline): Promise<void> {
  const { redis, config, pool } = pipeline;
  const { mismatches } = await verify(redis, pool, config, "session");
  const { changed } = await repairTarget(redis, config, "session", mismatches);
  assert.equal(changed, 0);
  await settled(pipeline);
}

export async function hostile(
  pipeline: Pipeline,
  command: AdminCommand,
  random: Random,
): Promise<void> {
  const { redis, config, pool } = pipeline;
  const author = new Author(redis, config, { random, documents: 40, paceMs: 1 });
  const writing = author.start();
  const wrote = (count: number) =>
    Promise.race([
      writing.failed,
      waitFor(() => author.events >= count, { what: `${count} calls`, deadlineMs: 60_000 }),
    ]);
  try {
    await wrote(CALLS);
    // In a table without rows, a code that speaks of data is believed.
    await waitFor(async () => (await rowsOf(pipeline)).size > 0, { what: "a row" });
    try {
      await command.run(pipeline);
    } finally {
      await command.restore?.(pipeline);
    }
    await wrote(author.events + CALLS);
  } finally {
    await writing.stop();
  }
  await settled(pipeline);
  if (command.losesEvents) await repair(pipeline);
  if (command.parks) {
    const { failed } = await replayDeadLetters(redis, pool, config, "session", { all: true });
    assert.equal(failed, 0);
  }
  const { rows: parked } = await pool.query(
    `SELECT convert_from(doc_id, 'UTF8') AS id, sqlstate, reason FROM writebehind_dead_letter
      WHERE state = 'parked'`,
  );
  assert.deepEqual(parked, [], "nothing is parked");
  const rows = sorted(await rowsOf(pipeline));
  assert.deepEqual(rows, sorted(await documentsOf(pipeline)), "rows are the documents");
  assert.deepEqual(rows, sorted(author.documents()), "rows are what was written last");
  assert.deepEqual(await noted(pipeline), { twice: 0, outOfOrder: 0 });
  assert.equal((await verify(redis, pool, config, "session")).counts.mismatches, 0);
}

/** Runs each command beside so many sinks. */
export async function eachUnderTraffic(
  t: Deno.TestContext,
  sinks: number,
  commands: Record<string, AdminCommand>,
  more: (pipeline: Pipeline) => Promise<unknown> = () => Promise.resolve(),
): Promise<void> {
  await using pipeline = await testPipeline({
    streams: { partitions: 2 },
    write_behind: { lease_seconds: 1 },
  });
  await keepLedger(pipeline);
  for (const [name, command] of Object.entries(commands)) {
    await t.step(
      name,
      () => withSeed((random) => beside(pipeline, sinks, () => hostile(pipeline, command, random))),
    );
  }
  await more(pipeline);
}
