import assert from "node:assert/strict";
import { configWith, connectRedis, insertDocument, type RedisEvents } from "writebehind";
import { emptyRedis, server } from "../support/own_redis.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { waitFor } from "../support/servers.ts";

Deno.test("a lost connection and its return are an event each; a closed one is none", async () => {
  await using own = await emptyRedis();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  const redis = await connectRedis(config);
  const heard: [string, RedisEvents[keyof RedisEvents]][] = [];
  redis.events.onAll((name, event) => heard.push([name, event]));
  for (let time = 1; time <= 2; time++) {
    await proxy.refuse();
    await waitFor(() => heard.length === 2 * time - 1, { what: "the loss" });
    await proxy.heal();
    await waitFor(() => heard.length === 2 * time, { what: "the return" });
  }
  await insertDocument(redis, config, "session", {}, "a", { durability: "memory" });
  await redis.close();
  assert.deepEqual(
    heard.map(([name]) => name),
    ["connectionLost", "reconnected", "connectionLost", "reconnected"],
  );
  const address = `${config.redis.host}:${proxy.port}`;
  for (const [, event] of heard) assert.equal("address" in event && event.address, address);
  const { error } = heard[0]![1] as RedisEvents["connectionLost"];
  assert.match(error.message, /closed|reset/i);
});

Deno.test("a connection for durable writes has its events where its user looks", async () => {
  await using own = await emptyRedis();
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = configWith(own.config, { redis: { port: proxy.port } });
  await using redis = await connectRedis(config);
  await insertDocument(redis, config, "session", {}, "a", { durability: "fsync" });
  let lost = 0;
  redis.events.on("connectionLost", () => lost++);
  await proxy.refuse();
  await waitFor(() => lost === 2, { what: "the loss of both" });
});
