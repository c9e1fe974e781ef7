import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectRedis,
  type DeepPartial,
  insertDocument,
  parseConfig,
  readByIds,
} from "writebehind";
import { findRedis } from "writebehind/dev/servers/binaries.ts";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { fails, SECRET } from "../support/connecting.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { testRedis, waitFor } from "../support/servers.ts";

const server = await testRedis();
Deno.test.afterAll(async () => await server[Symbol.asyncDispose]());

const address = `127.0.0.1:${server.port}`;

function withRedis(redis: DeepPartial<Config["redis"]>, more: DeepPartial<Config> = {}): Config {
  const config = parseConfig("", "test.yaml");
  return configWith(configWith(config, { redis: { host: "127.0.0.1", port: server.port } }), {
    ...more,
    redis,
  });
}

Deno.test("a Redis that can do it all is connected to, and counts", async () => {
  const redis = await connectRedis(withRedis({}));
  assert.equal(await redis.ping(), "PONG");
  redis.counters.count("redis_success", 2, "x");
  await redis.close();
  await using again = await connectRedis(withRedis({}));
  assert.equal(await again.get("metrics:redis_success"), "2");
  assert.equal(await again.client("GETNAME"), "writebehind");
});

Deno.test("a closed connection stays so: what is called on it fails, and leaves nothing behind", async () => {
  const config = withRedis({}, { metrics: { flush_interval_ms: 10 } });
  const redis = await connectRedis(config);
  await Promise.all([redis.close(), redis.close()]);
  for (const durability of ["memory", "replicas", "fsync"] as const) {
    await fails(
      insertDocument(redis, config, "session", {}, "d", { durability }).then(() => ({})),
      ConnectionError,
      "Not connected to Redis: nothing was sent",
    );
  }
  await fails(
    readByIds(redis, config, "session", ["d"]).then(() => ({})),
    ConnectionError,
    `The connection to Redis at ${address} is closed: nothing was sent`,
  );
  await redis.close();
  await using again = await connectRedis(config);
  assert.equal(await again.exists("session:d"), 0);
});

Deno.test("nothing listens: refused, with the address and what to do", async () => {
  const port = freePort();
  await fails(
    connectRedis(withRedis({ port })),
    ConnectionError,
    `127.0.0.1:${port}`,
    "connection refused",
    "redis.host",
  );
});

Deno.test("a host that does not exist", async () => {
  await fails(
    connectRedis(withRedis({ host: "nowhere.invalid" })),
    ConnectionError,
    "nowhere.invalid",
  );
});

Deno.test("a server that takes connections and says nothing", async () => {
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  proxy.halfOpen();
  await fails(
    connectRedis(withRedis({ port: proxy.port, command_timeout_ms: 300 })),
    ConnectionError,
    `127.0.0.1:${proxy.port}`,
  );
  await proxy.heal();
});

Deno.test("a wrong password, a missing one, and the right one", async () => {
  await using guarded = await testRedis({ extraArgs: ["--requirepass", SECRET] });
  const { port } = guarded;
  for (const password of ["wrong", null]) {
    await fails(
      connectRedis(withRedis({ port, password })),
      ConnectionError,
      `127.0.0.1:${port}`,
      "authentication failed",
      "redis.password",
    );
  }
  await using redis = await connectRedis(withRedis({ port, password: SECRET }));
  assert.equal(await redis.ping(), "PONG");
  assert(!Deno.inspect(withRedis({ password: SECRET })).includes(SECRET));
});

Deno.test("a wrong user", async () => {
  await fails(
    connectRedis(withRedis({ username: "nobody", password: SECRET })),
    ConnectionError,
    address,
    "authentication failed",
    "redis.username",
  );
});

Deno.test("a database that the server does not have", async () => {
  const config = withRedis({ db: 99 }, { search_index: { create_index: false } });
  await fails(connectRedis(config), ConnectionError, address, "redis.db");
});

Deno.test("a policy that may evict a stream", async () => {
  await using admin = await connectRedis(withRedis({}));
  await admin.config("SET", "maxmemory-policy", "allkeys-lru");
  try {
    await fails(connectRedis(withRedis({})), ConnectionError, "allkeys-lru", "noeviction");
    // These evict only keys with a TTL, which streams and documents do not have.
    await admin.config("SET", "maxmemory-policy", "volatile-lru");
    await (await connectRedis(withRedis({}))).close();
  } finally {
    await admin.config("SET", "maxmemory-policy", "noeviction");
  }
});

Deno.test("a Redis without RedisJSON, and one without RediSearch", async () => {
  const binaries = await findRedis();
  await using plain = await testRedis({ binaries: { ...binaries, modules: [] } });
  await fails(
    connectRedis(withRedis({ port: plain.port })),
    ConnectionError,
    "no RedisJSON",
    "Redis Stack",
  );
  const json = binaries.modules.filter((module) => module.includes("json"));
  await using half = await testRedis({ binaries: { ...binaries, modules: json } });
  await fails(connectRedis(withRedis({ port: half.port })), ConnectionError, "no RediSearch");
});

Deno.test("commands that the user may not run are listed", async () => {
  await using admin = await connectRedis(withRedis({}));
  const denied = ["-xadd", "-json.merge", "-waitaof"];
  await admin.acl("SETUSER", "poor", "reset", "on", `>${SECRET}`, "~*", "&*", "+@all", ...denied);
  const user = { username: "poor", password: SECRET };
  await fails(
    connectRedis(withRedis(user)),
    ConnectionError,
    "may not run",
    "XADD",
    "JSON.MERGE",
    "ACL SETUSER",
  );
  for (const command of ["info", "eval", "evalsha"]) {
    await admin.acl(
      "SETUSER",
      "poor",
      "reset",
      "on",
      `>${SECRET}`,
      "~*",
      "&*",
      "+@all",
      `-${command}`,
    );
    await fails(connectRedis(withRedis(user)), ConnectionError, address);
  }
  await admin.acl("DELUSER", "poor");
});

Deno.test("a durability that the server cannot give names the key and a value that works", async () => {
  const replicas = { enabled: true, wait_for_replicas: true };
  await fails(
    connectRedis(withRedis({}, { zero_data_loss: replicas })),
    ConfigError,
    "zero_data_loss.replicas",
    "wait_for_replicas: false",
  );
  await using replica = await testRedis({ replicaOf: server });
  assert(replica.port > 0);
  await (await connectRedis(withRedis({}, { zero_data_loss: replicas }))).close();
  await fails(
    connectRedis(withRedis({}, { zero_data_loss: { ...replicas, replicas: 2 } })),
    ConfigError,
    "use replicas: 1",
  );

  await using volatile = await testRedis({ extraArgs: ["--appendonly", "no"] });
  const fsync = { zero_data_loss: { enabled: true, wait_for_aof_rewrite: true } };
  await fails(
    connectRedis(withRedis({ port: volatile.port }, fsync)),
    ConfigError,
    "zero_data_loss.wait_for_aof_rewrite",
    "appendonly yes",
  );
  await (await connectRedis(withRedis({}, fsync))).close();
});

Deno.test("a connection that is lost comes back by itself", async () => {
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  await using redis = await connectRedis(withRedis({ port: proxy.port }));
  proxy.resetAll();
  await waitFor(() => redis.status !== "ready", { what: "the loss" });
  await waitFor(() => redis.status === "ready", { what: "the new connection" });
  assert.equal(await redis.ping(), "PONG");
});

Deno.test("a failed connection leaves no socket", async () => {
  await using proxy = await TcpProxy.start({ host: server.host, port: server.port });
  const config = withRedis({ port: proxy.port, username: "nobody", password: "x" });
  await fails(connectRedis(config), ConnectionError, "authentication failed");
  await waitFor(() => proxy.connections === 0, { what: "the socket's end" });
});
