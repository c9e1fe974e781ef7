import assert from "node:assert/strict";
import {
  caughtUp,
  configWith,
  connectRedis,
  consumePeriodically,
  insertDocument,
  openTarget,
  parseConfig,
  verify,
} from "writebehind";
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
