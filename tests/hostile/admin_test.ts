/** What an administrator types while writers and sinks run: each command, with one sink and with three. */

import assert from "node:assert/strict";
import { insertDocument } from "writebehind";
import { endSessions, ROLE_SETTINGS, setRole } from "../faults/administrator.ts";
import { noted } from "../faults/ledger.ts";
import { documentsOf, type Pipeline, rowsOf, sorted } from "../support/pipeline.ts";
import {
  type AdminCommand,
  beside,
  CALLS,
  eachUnderTraffic,
  onStreams,
  repair,
  settled,
} from "./under_traffic.ts";

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
  Deno.test(`an administrator under traffic, ${sinks === 1 ? "one sink" : "three sinks"}`, (t) =>
    eachUnderTraffic(
      t,
      sinks,
      COMMANDS,
      (pipeline) => t.step("FLUSHALL", () => beside(pipeline, sinks, () => flushed(pipeline))),
    ));
}
