import assert from "node:assert/strict";
import {
  caughtUp,
  configWith,
  connectRedis,
  consumePeriodically,
  insertDocument,
  openTarget,
  parseConfig,
  type Target,
  verify,
} from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { lockOf } from "writebehind/targets/mysql/sessions.ts";
import { killSink } from "../../faults/sinks.ts";
import { configFile, startTask } from "../../support/processes.ts";
import { waitFor } from "../../support/servers.ts";
import { databaseOn, sharedServers } from "./place.ts";

const { server, ignore, redis: redisServer } = await sharedServers();

/** A database, and a configuration that leads there. */
async function place() {
  const database = await databaseOn(server);
  const config = configWith(parseConfig("", "test.yaml"), {
    targets: [database.target],
    redis: { host: redisServer.host, port: redisServer.port },
    streams: { partitions: 4 },
    write_behind: { lease_seconds: 2 },
  });
  return { ...database, config };
}

Deno.test({ name: "MariaDB: sinks share the partitions, and take over", ignore }, async () => {
  await using own = await place();
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

Deno.test({
  name: "MariaDB: what a killed sink had is another's long before its lease ends",
  ignore,
}, async () => {
  await using own = await place();
  const { config } = own;
  const { host, port } = redisServer;
  const file = await configFile({
    targets: [own.target],
    streams: config.streams,
    write_behind: { lease_seconds: 120 },
  });
  const start = () =>
    startTask(["sink", "--config", file], { REDIS_URL: `redis://${host}:${port}` });
  await using redis = await connectRedis(config);
  await redis.flushall();
  await insertDocument(redis, config, "session", {});
  await using target = await openTarget(config);
  const reach = (counts: string) =>
    waitFor(async () => {
      const standing = allPartitions(config, "session").map((keys) =>
        target.offsets.standing(keys)
      );
      const live = (await Promise.all(standing)).filter(({ live }) => live);
      const owned = [...Map.groupBy(live, ({ owner }) => owner).values()];
      return owned.map(({ length }) => length).join() === counts;
    }, { what: counts, deadlineMs: 40_000 });
  await using _first = start();
  await reach("4");
  await using second = start();
  await reach("2,2");
  await killSink(second);
  await reach("4");
});

Deno.test({
  name: "MariaDB: a process that lives without its session says so at its next look",
  ignore,
}, async () => {
  await using own = await place();
  const partitions = allPartitions(own.config, "session");
  const members = async ({ ownership }: Target, process: string) => {
    const options = { leaseSeconds: 60, isMember: true };
    return (await ownership.share!(partitions, process, options)).members.length;
  };
  await using one = await openTarget(own.config);
  await using two = await openTarget(own.config);
  await two.migrate("session");
  await members(two, "two");
  const [held] = await own.run(
    "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id = IS_USED_LOCK(?)",
    [lockOf(own.target.database, `member of ${partitions[0]!.stream} two`)],
  ) as { id: string }[];
  assert.equal(await members(one, "one"), 2);
  await own.run(`KILL ${held!.id}`);
  await waitFor(async () => await members(one, "one") === 1, { what: "the end of the session" });
  await waitFor(async () => await members(two, "two") === 2, { what: "its return" });
});

Deno.test({
  name: "MariaDB: a member without a lock is there until its lease ends",
  ignore,
}, async () => {
  await using own = await place();
  const partitions = allPartitions(own.config, "session");
  await using one = await openTarget(own.config);
  await one.migrate("session");
  const member = `member of ${partitions[0]!.stream} two`;
  const options = { leaseSeconds: 2, isMember: true };
  const members = async (process: string, { ownership }: Target = one) =>
    (await ownership.share!(partitions, process, options)).members.toSorted();
  await using two = await openTarget(own.config);
  // As behind a pooler that has taken the lock on another session.
  await own.run(`DO GET_LOCK('${lockOf(own.target.database, member)}', 0)`);
  assert.deepEqual(await members("two", two), ["two"]);
  await own.run("DO RELEASE_ALL_LOCKS()");
  assert.deepEqual(await members("one"), ["one", "two"]);
  await waitFor(async () => (await members("one")).length === 1, { what: "the end of its lease" });
});

Deno.test({
  name: "MariaDB: where a partition cannot be given back, its lock is free all the same",
  ignore,
}, async () => {
  await using own = await place();
  const [keys] = allPartitions(own.config, "session");
  await using target = await openTarget(own.config);
  await target.migrate("session");
  const claim = await target.ownership.claim(keys!, "a", 30);
  const lock = lockOf(own.target.database, keys!.stream);
  const isUsed = async () => {
    const [row] = await own.run("SELECT IS_USED_LOCK(?) AS holder", [lock]) as {
      holder: unknown;
    }[];
    return row!.holder !== null;
  };
  assert(await isUsed());
  await own.run("RENAME TABLE writebehind_lease TO away");
  await assert.rejects(target.ownership.release(keys!, claim), /writebehind_lease/);
  await waitFor(async () => !await isUsed(), { what: "the lock to be free", deadlineMs: 30_000 });
});
