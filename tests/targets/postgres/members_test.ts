import assert from "node:assert/strict";
import { openTarget, type Shares, type Target } from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { testPipeline } from "../../support/pipeline.ts";
import { waitFor } from "../../support/servers.ts";

const LEASE_SECONDS = 60;

Deno.test("PostgreSQL: processes know of each other, and of who has gone", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 2 } });
  const { pool, config } = pipeline;
  const partitions = allPartitions(config, "session");
  const [a, b] = partitions.map(({ stream }) => stream);
  const share = ({ ownership }: Target, process: string, isMember = true): Promise<Shares> =>
    ownership.share!(partitions, process, { leaseSeconds: LEASE_SECONDS, isMember });
  const members = async (target: Target, process: string) =>
    (await share(target, process)).members.toSorted();
  await using one = await openTarget(config);
  assert.deepEqual(await members(one, "one"), ["one"]);
  {
    await using two = await openTarget(config);
    assert.deepEqual(await members(two, "two"), ["one", "two"]);
    assert.deepEqual(await members(one, "one"), ["one", "two"]);
    await one.ownership.claim(partitions[0]!, "one", LEASE_SECONDS);
    await two.ownership.claim(partitions[1]!, "two", LEASE_SECONDS);
    assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"], [b, "two"]]));

    // It says so itself; what it has is still its own.
    assert.deepEqual((await share(two, "two", false)).members, ["one"]);
    assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"], [b, "two"]]));
    assert.deepEqual(await members(two, "two"), ["one", "two"]);

    // Its session is ended, and it lives: it says so at the next look.
    const { rows } = await pool.query<{ key: string }>(
      "SELECT session_key AS key FROM writebehind_lease WHERE owner = 'two' AND stream LIKE 'member%'",
    );
    await pool.query(
      `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'
         AND (classid::bigint << 32) | objid::bigint = $1`,
      [rows[0]!.key],
    );
    await waitFor(async () => (await share(one, "one")).members.length === 1, {
      what: "the end of the session",
    });
    await waitFor(async () => (await members(two, "two")).length === 2, { what: "its return" });
  }
  // It has ended with its session, long before its lease.
  await waitFor(async () => (await share(one, "one")).members.length === 1, { what: "its end" });
  assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"]]));

  // Its place is the next one's: there are never more than there were at once.
  await using three = await openTarget(config);
  assert.deepEqual(await members(three, "three"), ["one", "three"]);
  const { rowCount } = await pool.query(
    "SELECT FROM writebehind_lease WHERE stream LIKE 'member%'",
  );
  assert.equal(rowCount, 2);
});
