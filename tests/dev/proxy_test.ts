import { Redis } from "ioredis";
import assert from "node:assert/strict";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { testRedis, waitFor } from "../support/servers.ts";

async function disconnect(...clients: Redis[]): Promise<void> {
  for (const client of clients) {
    if (client.status === "end") continue;
    const ended = new Promise((resolve) => client.once("end", resolve));
    client.disconnect();
    await ended;
  }
}

/** A client that neither retries nor waits: each call succeeds or fails by what the wire does. */
function connect({ host, port }: { host: string; port: number }): Redis {
  const client = new Redis({
    host,
    port,
    maxRetriesPerRequest: 0,
    retryStrategy: null,
    enableReadyCheck: false,
    autoResendUnfulfilledCommands: false,
    connectTimeout: 2_000,
  });
  client.on("error", () => {});
  return client;
}

Deno.test("the proxy's faults do what they say, and heal", async (t) => {
  await using redis = await testRedis();
  await using proxy = await TcpProxy.start(redis);

  await t.step("it forwards", async () => {
    const client = connect(proxy);
    assert.equal(await client.set("key", "x".repeat(1000)), "OK");
    assert.equal(proxy.connections, 1);
    await disconnect(client);
    await waitFor(() => proxy.connections === 0, { what: "the connection's end" });
  });

  await t.step("resetAll ends what is open, and takes new connections", async () => {
    const client = connect(proxy);
    await client.ping();
    const ended = new Promise((resolve) => client.once("error", resolve));
    proxy.resetAll();
    assert.match(String(await ended), /ECONNRESET/);
    const next = connect(proxy);
    assert.equal(await next.ping(), "PONG");
    await disconnect(next);
  });

  await t.step("refuse refuses, on the same port healed", async () => {
    const { port } = proxy;
    await proxy.refuse();
    await assert.rejects(Deno.connect({ hostname: proxy.host, port }), /refused/);
    await proxy.heal();
    assert.equal(proxy.port, port);
    const client = connect(proxy);
    assert.equal(await client.ping(), "PONG");
    await disconnect(client);
  });

  await t.step("halfOpen keeps bytes until healed", async () => {
    const client = connect(proxy);
    await client.ping();
    proxy.halfOpen();
    let answered = false;
    const late = client.incr("counter").finally(() => answered = true);
    const direct = connect(redis);
    for (let i = 0; i < 50; i++) assert.equal(await direct.get("counter"), null);
    assert(!answered);
    await proxy.heal();
    assert.equal(await late, 1);
    await disconnect(client, direct);
  });

  await t.step("delay holds each chunk both ways", async () => {
    const client = connect(proxy);
    await client.ping();
    proxy.delay(100);
    const since = performance.now();
    await client.ping();
    const ms = performance.now() - since;
    assert(ms >= 195, `answered after ${ms} ms`);
    await proxy.heal();
    await disconnect(client);
  });

  await t.step("cutReplyAfter passes on so many bytes, then closes", async () => {
    const connection = await Deno.connect({ hostname: proxy.host, port: proxy.port });
    proxy.cutReplyAfter(10);
    await connection.write(new TextEncoder().encode("GET key\r\n"));
    const reply = await new Response(connection.readable).text();
    assert.equal(reply, "$1000\r\nxxx");
    const client = connect(proxy);
    assert.equal((await client.get("key"))?.length, 1000, "the fault is over");
    await disconnect(client);
  });
});

Deno.test("closing the proxy with delayed and half-open connections leaves nothing", async () => {
  await using redis = await testRedis();
  const proxy = await TcpProxy.start(redis);
  const client = connect(proxy);
  await client.ping();
  proxy.delay(60_000);
  const never = client.ping().catch(String);
  const pending = connect(redis);
  await pending.ping();
  proxy.halfOpen();
  await proxy.close();
  assert.match(await never, /closed|reset/i);
  assert.equal(proxy.connections, 0);
  await disconnect(pending);
});
