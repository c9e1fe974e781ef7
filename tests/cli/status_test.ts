/** What a look of `status` leaves behind. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { configWith, parseConfig } from "writebehind";
import { look } from "writebehind/cli/status.ts";
import { emptyRedis } from "../support/own_redis.ts";
import { testFolder, waitFor } from "../support/servers.ts";

Deno.test("status: a connection that is there too late is closed", async () => {
  await using own = await emptyRedis();
  const { redis } = own;
  const path = join(testFolder("status"), "target.db");
  const config = configWith(own.config, {
    targets: [{ name: "file", kind: "sqlite", path, on_full: "stop" }],
  });
  const clients = async () => String(await redis.client("LIST")).match(/^id=/gm)!.length;
  const before = await clients();
  await redis.call("CLIENT", "PAUSE", 1000, "ALL");
  const { away } = await look(config, {}, 100);
  assert.match(away[0]!, /^Redis: no answer within 0\.1 s/);
  // Redis answers only when the pause is over: the connection is among them, until it is closed.
  await waitFor(async () => await clients() === before, {
    what: "the late connection to go",
    deadlineMs: 30_000,
  });
});

Deno.test("status: how many partitions there are, which a Redis that is away knows, is told once to be unknown", async () => {
  const config = configWith(parseConfig("", "f"), {
    redis: { host: "127.0.0.1", port: 1 },
    streams: { partitions: "auto" },
    targets: ["one", "two"].map((name) => (
      { name, kind: "sqlite", path: testFolder(name), on_full: "stop" }
    )),
  });
  const { away, partitions } = await look(config, {}, 60_000);
  assert.deepEqual(partitions, []);
  assert.match(away[0]!, /^Cannot connect to Redis at 127\.0\.0\.1:1: connection refused/);
  assert.match(
    away.slice(1).join(),
    /^Cannot show the partitions of session: streams\.partitions is auto, and Redis, which knows [^,]*, does not answer; to see what the targets hold of them, set their number$/,
  );
});
