/** What /metrics tells of the nodes of a cluster. */

import assert from "node:assert/strict";
import { RedisWriteBehind } from "writebehind";
import { askNode } from "writebehind/dev/servers/cluster.ts";
import { serveMetrics } from "writebehind/metrics/prometheus.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { SESSION } from "../support/cached.ts";
import { TestCluster } from "../support/cluster.ts";
import { seriesOf } from "../support/prometheus.ts";
import { testPostgres, waitFor } from "../support/servers.ts";

Deno.test("keys that have gone are counted for each node, so that one that begins anew hides no other", async () => {
  await using cluster = await TestCluster.start();
  await using postgres = await testPostgres();
  await using pipeline = await cluster.pipeline(postgres, {
    streams: { partitions: 8 },
    entities: [{ ...SESSION, cache: { enabled: true } }],
  });
  const { redis, pool, config } = pipeline;
  await using sink = new RedisWriteBehind(redis, pool, config, "session");
  await using server = serveMetrics({ port: 0 });
  server.watch({ redis, target: targetOf(pool, config), config, entity: "session" }, sink);
  const expired = async () => {
    const text = await (await fetch(server.url)).text();
    const gone = Object.entries(seriesOf(text, "writebehind_redis_keys_gone_total"));
    return new Map(gone.filter(([labels]) => labels.startsWith('how="expired"')));
  };
  for (let partition = 0; partition < 8; partition++) {
    const { documentPrefix } = partitionKeys(config, "session", partition);
    await redis.set(`${documentPrefix}short`, "x", "PX", 1);
  }
  await waitFor(async () => [...(await expired()).values()].every((keys) => keys > 0), {
    what: "each node to let one expire",
    deadlineMs: 20_000,
  });
  const masters = new Set((await expired()).keys());
  assert.equal(masters.size, 3);
  const first = redis.at(partitionKeys(config, "session", 0).stream).address;
  const node = cluster.nodes.find(({ port }) => first.endsWith(`:${port}`))!;
  await askNode(node, "CONFIG", "RESETSTAT"); // as where it is started again
  for (const [labels, keys] of await expired()) {
    assert.equal(keys === 0, labels.endsWith(`node="${first}"`), `${labels}: ${keys}`);
  }
});
