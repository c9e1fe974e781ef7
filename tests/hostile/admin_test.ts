/** What an administrator types while writers and sinks run: each command, with one sink and with three. */

import assert from "node:assert/strict";
import {
  caughtUp,
  insertDocument,
  type Random,
  type RedisConnection,
  RedisWriteBehind,
  repairTarget,
  verify,
} from "writebehind";
import { reasonOf } from "writebehind/core/errors.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { endSessions, resetRole, ROLE_SETTINGS, setRole } from "../faults/administrator.ts";
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
const CALLS = 150;

interface AdminCommand {
  run: (pipeline: Pipeline) => Promise<unknown>;
  /** it takes events away that no sink has read: `verify` finds their documents, and its repair sends them again */
  losesEvents?: boolean;
}

const onStreams = (run: (redis: RedisConnection, stream: string) => Promise<unknown>) => {
  return ({ redis, config }: Pipeline) =>
    Promise.all(allPartitions(config, "session").map(({ stream }) => run(redis, stream)));
};

/** What a command says of a stream that another one has just taken away. */
function noKey(error: unknown): void {
  if (!/no such key/.test(String(error))) throw error;
}

const COMMANDS: Record<string, AdminCommand> = {
  "DEL of the stream": { run: onStreams((redis, stream) => redis.del(stream)), losesEvents: true },
  "UNLINK of the stream": {
    run: onStreams((redis, stream) => redis.unlink(stream)),
    losesEvents: true,
  },
  "XTRIM MAXLEN 0": {
    run: onStreams((redis, stream) => redis.xtrim(stream, "MAXLEN", 0)),
    losesEvents: true,
  },
  "RENAME of the stream": {
    run: onStreams((redis, stream) => redis.rename(stream, `{${stream}}:away`).catch(noKey)),
    losesEvents: true,
  },
  "EXPIRE of the stream": {
    run: onStreams((redis, stream) => redis.pexpire(stream, 1)),
    losesEvents: true,
  },
  "XGROUP DESTROY": {
    run: onStreams(async (redis, stream) => {
      const groups = await redis.xinfo("GROUPS", stream) as unknown as { name: string }[];
      for (const { name } of groups) await redis.xgroup("DESTROY", stream, name);
    }),
  },
  "DEL of settings, copies and counters": {
    run: async ({ redis }) => {
      for (const pattern of ["stream:settings:*", "stream:lastid:*", "metrics:*", "log:*"]) {
        for (const key of await redis.keys(pattern)) await redis.del(key);
      }
    },
  },
  "SCRIPT FLUSH": { run: ({ redis }) => redis.script("FLUSH") },
  "CLIENT KILL of everybody": {
    run: ({ redis }) => redis.call("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"),
  },
  "CLIENT PAUSE": { run: ({ redis }) => redis.call("CLIENT", "PAUSE", 300, "ALL") },
  "CONFIG SET timeout 1": {
    run: async ({ redis }) => {
      await redis.config("SET", "timeout", 1);
      await redis.config("SET", "maxmemory-clients", "1mb");
    },
  },
  BGREWRITEAOF: { run: ({ redis }) => redis.bgrewriteaof() },
  "pg_terminate_backend of everybody": { run: endSessions },
  "LOCK TABLE": {
    run: ({ pool }) => pool.query("BEGIN; LOCK TABLE sessions; SELECT pg_sleep(0.5); COMMIT"),
  },
  "VACUUM FULL": { run: ({ pool }) => pool.query("VACUUM FULL sessions") },
  REINDEX: { run: ({ pool }) => pool.query("REINDEX TABLE sessions") },
  "ALTER TABLE ADD COLUMN": {
    run: ({ pool }) =>
      pool.query(`ALTER TABLE sessions ADD COLUMN IF NOT EXISTS born BIGINT
                    GENERATED ALWAYS AS ((payload->>'born')::bigint) STORED`),
  },
  "DELETE of the leases": { run: ({ pool }) => pool.query("DELETE FROM writebehind_lease") },
  "leases of another's": {
    run: ({ pool }) =>
      pool.query("UPDATE writebehind_lease SET owner = 'nobody', epoch = epoch + 7"),
  },
  ...Object.fromEntries(
    Object.entries(ROLE_SETTINGS).map(([name, settings]): [string, AdminCommand] => [
      `a role that ${name}`,
      { run: (pipeline) => setRole(pipeline, settings) },
    ]),
  ),
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
async function beside(
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

const settled = ({ redis, pool, config }: Pipeline) =>
  caughtUp(redis, pool, config, "session", { deadlineMs: 60_000 });

/** What the pages advise where events were lost: compare, and send again what differs. */
async function repair(pipeline: Pipeline): Promise<void> {
  const { redis, config, pool } = pipeline;
  const { mismatches } = await verify(redis, pool, config, "session");
  const { changed } = await repairTarget(redis, config, "session", mismatches);
  assert.equal(changed, 0);
  await settled(pipeline);
}

async function hostile(pipeline: Pipeline, command: AdminCommand, random: Random): Promise<void> {
  const { redis, config, pool } = pipeline;
  const author = new Author(redis, config, { random, documents: 40, paceMs: 1 });
  const writing = author.start();
  const wrote = (count: number) =>
    waitFor(() => author.events >= count, { what: `${count} calls`, deadlineMs: 60_000 });
  try {
    await wrote(CALLS);
    await command.run(pipeline);
    await wrote(author.events + CALLS);
  } finally {
    await writing.stop();
  }
  await settled(pipeline);
  if (command.losesEvents) await repair(pipeline);
  const rows = sorted(await rowsOf(pipeline));
  assert.deepEqual(rows, sorted(await documentsOf(pipeline)), "rows are the documents");
  assert.deepEqual(rows, sorted(author.documents()), "rows are what was written last");
  assert.deepEqual(await noted(pipeline), { twice: 0, outOfOrder: 0 });
  assert.equal((await verify(redis, pool, config, "session")).counts.mismatches, 0);
}

/** After a FLUSHALL, the truth is what was written afterwards. */
async function flushed(pipeline: Pipeline): Promise<void> {
  const { redis, config } = pipeline;
  const insert = (n: number) => insertDocument(redis, config, "session", { n }, `d${n}`);
  for (let n = 0; n < CALLS; n++) await insert(n);
  await redis.flushall();
  for (let n = CALLS; n < 2 * CALLS; n++) await insert(n);
  await settled(pipeline);
  await repair(pipeline);
  const rows = sorted(await rowsOf(pipeline));
  assert.deepEqual(rows, sorted(await documentsOf(pipeline)), "rows are the documents");
  assert.equal(rows.length, CALLS);
  assert.deepEqual(await noted(pipeline), { twice: 0, outOfOrder: 0 });
}

for (const sinks of [1, 3]) {
  Deno.test(`an administrator under traffic, ${sinks === 1 ? "one sink" : "three sinks"}`, async (t) => {
    await using pipeline = await testPipeline({
      streams: { partitions: 2 },
      write_behind: { lease_seconds: 1 },
    });
    await keepLedger(pipeline);
    for (const [name, command] of Object.entries(COMMANDS)) {
      await t.step(
        name,
        () =>
          withSeed((random) => beside(pipeline, sinks, () => hostile(pipeline, command, random))),
      );
    }
    await t.step("FLUSHALL", () => beside(pipeline, sinks, () => flushed(pipeline)));
  });
}
