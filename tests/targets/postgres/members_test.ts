import assert from "node:assert/strict";
import { openTarget, type Target } from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { testPipeline } from "../../support/pipeline.ts";
import { waitFor } from "../../support/servers.ts";

const LEASE_SECONDS = 60;

Deno.test("PostgreSQL: a process that lives without its session says so at its next look", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 2 } });
  const { pool, config } = pipeline;
  const partitions = allPartitions(config, "session");
  const members = async ({ ownership }: Target, process: string) => {
    const options = { leaseSeconds: LEASE_SECONDS, isMember: true };
    return (await ownership.share!(partitions, process, options)).members.length;
  };
  await using one = await openTarget(config);
  await using two = await openTarget(config);
  await members(one, "one");
  assert.equal(await members(two, "two"), 2);
  const { rows } = await pool.query<{ key: string }>(
    "SELECT session_key AS key FROM writebehind_lease WHERE owner = 'two' AND stream LIKE 'member%'",
  );
  await pool.query(
    `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'
       AND (classid::bigint << 32) | objid::bigint = $1`,
    [rows[0]!.key],
  );
  await waitFor(async () => await members(one, "one") === 1, { what: "the end of the session" });
  await waitFor(async () => await members(two, "two") === 2, { what: "its return" });
});
