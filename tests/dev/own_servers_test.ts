import assert from "node:assert/strict";
import { configWith, connectRedis, parseConfig, serverOverrides } from "writebehind";
import { startOwnServers } from "writebehind/dev/servers/own.ts";
import { queryAt } from "../support/servers.ts";

Deno.test("servers of one's own are nobody else's, can be broken and mended, and leave nothing", async () => {
  const config = parseConfig("", "test.yaml");
  const other = await startOwnServers({ config });
  const own = await startOwnServers({ config });
  try {
    assert.notEqual(own.databaseUrl, other.databaseUrl);
    await queryAt(own.databaseUrl, "CREATE TABLE kept ()");
    assert.equal(await own.stopPostgres(), true);
    await assert.rejects(queryAt(own.databaseUrl, "SELECT"), /ECONNREFUSED/);
    await queryAt(other.databaseUrl, "SELECT");
    await own.startPostgres();
    const [row] = await queryAt(own.databaseUrl, "SELECT to_regclass('kept') AS kept");
    assert.deepEqual(row, { kept: "kept" });
    await using redis = await connectRedis(configWith(config, serverOverrides(own)));
    assert.match(await redis.info("replication"), /connected_slaves:1/);
  } finally {
    await own[Symbol.asyncDispose]();
    await other[Symbol.asyncDispose]();
  }
  for (const { databaseUrl } of [own, other]) {
    await assert.rejects(queryAt(databaseUrl, "SELECT"), /ECONNREFUSED/);
  }
});
