import assert from "node:assert/strict";
import {
  caughtUp,
  configWith,
  connectRedis,
  consumePeriodically,
  insertDocument,
  openTarget,
  parseConfig,
  type Shares,
  type Target,
  verify,
} from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { testRedis, waitFor } from "../../support/servers.ts";
import { databaseOn, sharedMariadb } from "./place.ts";

const shared = await sharedMariadb();
const server = shared!;
const ignore = shared === null;
const redisServer = await testRedis();
Deno.test.afterAll(async () => {
  await shared?.[Symbol.asyncDispose]();
  await redisServer[Symbol.asyncDispose]();
});

/** A database, and a configuration that leads there. */
async function place(partitions: number, leaseSeconds = 30) {
  const database = await databaseOn(server);
  const config = configWith(parseConfig("", "test.yaml"), {
    targets: [database.target],
    redis: { host: redisServer.host, port: redisServer.port },
    streams: { partitions },
    write_behind: { lease_seconds: leaseSeconds },
  });
  return { ...database, config };
}

Deno.test(
  { name: "MariaDB: processes know of each other, and of who has gone", ignore },
  async () => {
    await using own = await place(2);
    const { config } = own;
    const partitions = allPartitions(config, "session");
    const [a, b] = partitions.map(({ stream }) => stream);
    const share = (
      { ownership }: Target,
      process: string,
      { isMember = true, leaseSeconds = 30 } = {},
    ) => ownership.share!(partitions, process, { leaseSeconds, isMember });
    const members = ({ members }: Shares) => members.toSorted();
    await using one = await openTarget(config);
    await one.migrate("session");
    assert.deepEqual(members(await share(one, "one")), ["one"]);
    {
      await using two = await openTarget(config);
      assert.deepEqual(members(await share(two, "two")), ["one", "two"]);
      await one.ownership.claim(partitions[0]!, "one", 30);
      await two.ownership.claim(partitions[1]!, "two", 30);
      assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"], [b, "two"]]));
      // It says so itself; what it has is still its own.
      assert.deepEqual(members(await share(two, "two", { isMember: false })), ["one"]);
      assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"], [b, "two"]]));
      await share(two, "two", { leaseSeconds: 0.5 });
    }
    // What it had was free once its session had ended, and its own lease ends with time.
    await waitFor(async () => {
      const { owners, members } = await share(one, "one");
      return !owners.has(b!) && members.length === 1;
    }, { what: "its end" });
    // Who comes removes what was left.
    await using three = await openTarget(config);
    assert.deepEqual(members(await share(three, "three")), ["one", "three"]);
    const left = await own.run("SELECT stream FROM writebehind_lease WHERE stream LIKE 'member%'");
    assert.equal((left as unknown[]).length, 2);
  },
);

Deno.test({ name: "MariaDB: sinks share the partitions, and take over", ignore }, async () => {
  await using own = await place(4, 2);
  const { config } = own;
  await using redis = await connectRedis(config);
  await redis.flushall();
  const begin = async () => {
    const target = await openTarget(config);
    const connection = await connectRedis(config);
    const sink = consumePeriodically(connection, target, config, "session");
    return {
      process: sink.process,
      [Symbol.asyncDispose]: async () => {
        await sink.stop();
        await target.close();
        await connection.close();
      },
    };
  };
  let written = 0;
  const counts = async () => {
    await insertDocument(redis, config, "session", { n: written++ });
    const rows = await own.run(
      `SELECT COUNT(*) AS n FROM writebehind_lease
        WHERE stream LIKE 'stream:%' AND lease_until > UTC_TIMESTAMP(3) GROUP BY owner ORDER BY n`,
    ) as { n: number }[];
    return rows.map(({ n }) => Number(n)).join();
  };
  const reach = (what: string) =>
    waitFor(async () => await counts() === what, { what, deadlineMs: 30_000 });
  await using _first = await begin();
  await reach("4");
  {
    await using _second = await begin();
    await reach("2,2");
  }
  await reach("4");
  await using target = await openTarget(config);
  await caughtUp(redis, target, config, "session");
  const { counts: found, equal } = await verify(redis, target, config, "session");
  assert.deepEqual([found.mismatches, equal], [0, written]);
});
