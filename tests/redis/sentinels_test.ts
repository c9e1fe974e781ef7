/** Connecting by sentinels, and what is wrong when that fails. */

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
import { freePort } from "writebehind/dev/servers/processes.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { nodeOf } from "writebehind/redis/nodes.ts";
import { RespConnection } from "writebehind/redis/resp.ts";
import { CERTIFICATES } from "../support/certificates.ts";
import { fails, SECRET } from "../support/connecting.ts";
import { ask, NAME, testSentinel } from "../support/sentinels.ts";
import { testRedis, waitFor } from "../support/servers.ts";

const server = await testRedis();
const sentinel = await testSentinel(server, { quorum: 1 });
Deno.test.afterAll(async () => {
  await sentinel[Symbol.asyncDispose]();
  await server[Symbol.asyncDispose]();
});

const at = ({ host, port }: { host: string; port: number }) => ({ host, port });
const nobody = () => ({ host: "127.0.0.1", port: freePort() });

function by(
  sentinels: { host: string; port: number }[],
  more: DeepPartial<Config["redis"]> = {},
): Config {
  const redis = { sentinels, sentinel_name: NAME, command_timeout_ms: 1000, ...more };
  // The address is not used: nothing listens there.
  return configWith(parseConfig("", "test.yaml"), { redis: { ...nobody(), ...redis } });
}

Deno.test("sentinels lead to the primary, also where some of them are away or none", async () => {
  for (const others of [[], [nobody()], [at(server), nobody()]]) {
    const config = by([...others, at(sentinel)]);
    await using redis = await connectRedis(config);
    assert.equal(redis.address, `127.0.0.1:${server.port} (${NAME})`);
    await insertDocument(redis, config, "session", { n: 1 }, "a", { overwrite: true });
    assert.deepEqual(await readByIds(redis, config, "session", ["a"]), [{ n: 1 }]);
    assert.deepEqual(await nodeOf(config), at(server));
  }
});

Deno.test("sentinels that disagree: the one that has seen the last failover counts", async () => {
  await using before = await testSentinel({ host: "127.0.0.1", port: freePort() }, { quorum: 9 });
  const epoch = `sentinel config-epoch ${NAME} 5`;
  await using last = await testSentinel(server, { quorum: 9, more: epoch });
  for (const sentinels of [[before, last], [last, before], [before, last, before]]) {
    assert.deepEqual(await nodeOf(by(sentinels.map(at))), at(server));
  }
});

Deno.test("no sentinel can be reached: each says why", async () => {
  const [one, silent] = [nobody(), server];
  await using proxy = await TcpProxy.start(at(silent));
  proxy.halfOpen();
  await fails(
    connectRedis(by([one, { host: "127.0.0.1", port: proxy.port }])),
    ConnectionError,
    `Cannot connect to Redis at ${NAME} of the sentinels 127.0.0.1:${one.port}, 127.0.0.1:${proxy.port}: `,
    `no sentinel names a primary ${NAME}`,
    `127.0.0.1:${one.port}: connection refused`,
    `127.0.0.1:${proxy.port}: no answer within 1000 ms`,
    "check redis.sentinels",
  );
  await proxy.heal();
});

Deno.test("another name: the message has those that the sentinel knows", async () => {
  await fails(
    connectRedis(by([at(sentinel)], { sentinel_name: "other" })),
    ConnectionError,
    `127.0.0.1:${sentinel.port}: it does not know other; it knows ${NAME}`,
    "redis.sentinel_name",
  );
});

Deno.test("a Redis in the place of a sentinel, and a sentinel in the place of a Redis", async () => {
  await fails(
    connectRedis(by([at(server)])),
    ConnectionError,
    `127.0.0.1:${server.port}: it is a Redis, no sentinel`,
  );
  await fails(
    connectRedis(by([], { sentinels: null, sentinel_name: null, ...at(sentinel) })),
    ConnectionError,
    `127.0.0.1:${sentinel.port}: it is a sentinel, which has no data`,
    "redis.sentinels",
  );
});

Deno.test("sentinels that want a password", async () => {
  await using guarded = await testSentinel(server, { quorum: 1, more: `requirepass ${SECRET}` });
  for (const sentinel_password of ["wrong", null]) {
    await fails(
      connectRedis(by([at(guarded)], { sentinel_password })),
      ConnectionError,
      "authentication failed",
      "redis.sentinel_password",
    );
  }
  const config = by([at(guarded)], { sentinel_password: SECRET });
  await using redis = await connectRedis(config);
  assert.equal(await redis.ping(), "PONG");
  assert(!Deno.inspect(config).includes(SECRET));
});

Deno.test("sentinels and servers that speak TLS are trusted by the same files", async () => {
  const shown = [
    ...["tls-cert-file", CERTIFICATES.server, "tls-key-file", CERTIFICATES.server],
    ...["tls-ca-cert-file", CERTIFICATES.authority, "tls-auth-clients", "no"],
  ];
  const tlsPort = freePort();
  const args = shown.map((word, at) => at % 2 === 0 ? `--${word}` : word);
  await using primary = await testRedis({ extraArgs: ["--tls-port", String(tlsPort), ...args] });
  const more = ["tls-replication", "yes", ...shown].join(" ").replace(/ (?=tls-)/g, "\n");
  await using guarded = await testSentinel({ ...primary, port: tlsPort }, { tls: true, more });
  const tls = { tls: true, sentinel_tls: true, tls_ca_file: CERTIFICATES.authority };
  const config = by([at(guarded)], tls);
  await using redis = await connectRedis(config);
  assert.equal(redis.address, `127.0.0.1:${tlsPort} (${NAME})`);
  const reader = await RespConnection.open(config, redis.node!);
  assert.equal(String(await reader.call(["PING"])), "PONG");
  reader.close();
  const unknown = "signed by the authority CN=authority, which is not trusted";
  await fails(
    connectRedis(by([at(guarded)], { ...tls, tls_ca_file: null })),
    ConnectionError,
    unknown,
  );
  await fails(
    connectRedis(by([at(guarded)], { ...tls, tls: false })),
    ConnectionError,
    "speaks TLS",
  );
  await fails(
    connectRedis(by([at(guarded)], { ...tls, sentinel_tls: false })),
    ConnectionError,
    `127.0.0.1:${guarded.port}: it speaks TLS`,
    "redis.sentinel_tls",
  );
  await fails(
    connectRedis(by([at(sentinel)], { tls: true })),
    ConnectionError,
    "speaks no TLS",
    "watch",
  );
  await fails(
    connectRedis(by([at(sentinel)], { sentinel_tls: true })),
    ConnectionError,
    `127.0.0.1:${sentinel.port}: it speaks no TLS there`,
  );
  await fails(
    connectRedis(by([at(guarded)], { ...tls, tls_ca_file: "/none.pem" })),
    ConfigError,
    "redis.tls_ca_file",
  );
});

Deno.test("sentinels name a server that is gone, and one that is a replica", async () => {
  const primary = await testRedis();
  // A quorum that one sentinel cannot reach: it goes on to name it.
  await using lonely = await testSentinel(primary, { quorum: 2 });
  const config = by([at(lonely)]);
  {
    await using connection = await connectRedis(config);
    assert.equal(await connection.ping(), "PONG");
    await ask(primary, "REPLICAOF", server.host, server.port);
    await fails(
      connectRedis(config),
      ConnectionError,
      `127.0.0.1:${primary.port}`,
      "it is a replica",
    );
    // One that is connected finds out by its next write, and leaves.
    let left = false;
    connection.once("reconnecting", () => left = true);
    await assert.rejects(
      insertDocument(connection, config, "session", { n: 1 }, "b"),
      { name: "RedisRefusedError", code: "READONLY" },
    );
    await waitFor(() => left, { what: "the connection to leave" });
    await ask(primary, "REPLICAOF", "NO", "ONE");
    await waitFor(() => connection.sends, { what: "the connection to come back" });
  }
  await primary[Symbol.asyncDispose]();
  await fails(
    connectRedis(config),
    ConnectionError,
    `127.0.0.1:${primary.port} (${NAME}): connection refused: the sentinels name it as the primary`,
  );
});

Deno.test("sentinels and their name go together", () => {
  const cases: Record<string, string> = {
    "sentinels: [{ host: a }]":
      "f:1: redis.sentinel_name: expected what the sentinels call the primary",
    "sentinel_name: a": "f:1: redis.sentinels: expected a list of sentinels",
    "sentinels: []\n  sentinel_name: a": "expected at least one sentinel",
    "sentinels: [a:1]\n  sentinel_name: a": "expected a host and a port",
    "sentinels: [{ host: a:1 }]\n  sentinel_name: a":
      "expected a name or an address, without a port",
    "sentinels: [{ host: a, port: 0 }]\n  sentinel_name: a":
      "expected a whole number from 1 to 65535",
    "sentinels: [{ host: a }]\n  sentinel_name: a b": "expected the name of a primary",
  };
  for (const [text, message] of Object.entries(cases)) {
    assert.throws(() => parseConfig(`redis:\n  ${text}`, "f"), (error) => {
      assert(error instanceof ConfigError);
      assert(error.message.includes(message.replace(/^f:1: /, "")), error.message);
      return true;
    });
  }
  const { redis } = parseConfig("redis: { sentinels: [{ host: a }], sentinel_name: m }", "f");
  assert.deepEqual(redis.sentinels, [{ host: "a", port: 26379 }]);
});
