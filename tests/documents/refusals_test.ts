import assert from "node:assert/strict";
import {
  configWith,
  ConnectionError,
  connectRedis,
  DocumentError,
  insertDocument,
  parseConfig,
  RedisConnection,
  RedisRefusedError,
  UnknownOutcomeError,
} from "writebehind";
import { contents } from "../support/documents.ts";
import { emptyRedis } from "../support/own_redis.ts";
import { testRedis, waitFor } from "../support/servers.ts";

Deno.test("options of another type, as JavaScript may give, are refused, and nothing is sent", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const bad: [options: object, message: RegExp][] = [
    [{ ttlSeconds: "5" }, /^Cannot insert d: ttlSeconds: expected a number above 0, .* got "5"$/],
    [{ ttlSeconds: true }, /got true$/],
    [{ ttlSeconds: 5n }, /got 5$/],
    [{ durability: "replica" }, /durability: expected memory, replicas, fsync, .* got "replica"$/],
    [{ durability: 1 }, /got 1$/],
    [{ requestId: "" }, /requestId: expected text that is not empty, of whole characters, got ""$/],
    [{ requestId: null }, /got null$/],
    [{ requestId: {} }, /got \[object Object\]$/],
    [{ requestId: "a\ud800" }, /got "a\\ud800"$/],
  ];
  for (const [options, message] of bad) {
    const error = await insertDocument(redis, config, "session", {}, "d", options).then(
      () => assert.fail(`${Deno.inspect(options)} was taken`),
      (error: Error) => error,
    );
    assert(error instanceof DocumentError && error.code === "invalid", error.message);
    assert.match(error.message, message);
  }
  for (const id of [Symbol("d"), 5, null] as unknown[]) {
    const error = await insertDocument(redis, config, "session", {}, id as string).then(
      () => assert.fail(),
      (error: Error) => error,
    );
    assert.match(error.message, /^Cannot use the document id .*: expected text, got/);
  }
  assert.equal((await contents(redis)).size, 0);
});

Deno.test("an answer before the script has begun is a refusal, and nothing is written", async (t) => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await t.step("a document over proto-max-bulk-len", async () => {
    await redis.config("SET", "proto-max-bulk-len", "1mb");
    try {
      const large = { a: "x".repeat(1_500_000) };
      // Redis closes the connection behind its answer, which may be lost with it: then the outcome is unknown.
      await waitFor(async () => {
        const before = await contents(redis);
        await using writer = await connectRedis(config);
        const error = await insertDocument(writer, config, "session", large, "d").then(
          () => assert.fail("it was written"),
          (error: Error) => error,
        );
        assert.deepEqual(await contents(redis), before);
        if (error instanceof UnknownOutcomeError) {
          assert.match(error.message, /\(the connection to \S+ was lost before the answer\)/);
          return false;
        }
        assert(error instanceof DocumentError && error.code === "too_large", error.message);
        assert.match(error.message, /proto-max-bulk-len; raise that, or lower documents.max_bytes/);
        return true;
      }, { what: "an answer that was not lost" });
    } finally {
      await redis.config("SET", "proto-max-bulk-len", "512mb");
    }
  });
  await t.step("a session that is not logged in", async () => {
    await using writer = await connectRedis(config);
    await redis.config("SET", "requirepass", "secret");
    try {
      await writer.call("RESET");
      await refusedBy(
        insertDocument(writer, config, "session", {}, "d"),
        "ERR", // more arguments than Redis reads from one who is not logged in
        /redis.password/,
      );
    } finally {
      await redis.config("SET", "requirepass", "");
    }
  });
  assert.equal((await contents(redis)).size, 0);
});

Deno.test("a renamed command, and a cluster: refused, also where nobody asked at connect", async () => {
  await using renamed = await testRedis({ extraArgs: ["--rename-command", "EVALSHA", "hidden"] });
  await using cluster = await testRedis({ extraArgs: ["--cluster-enabled", "yes"] });
  const cases: [port: number, code: string, why: RegExp, atConnect: RegExp][] = [
    [renamed.port, "ERR", /renamed\? Rename it back/, /does not know EVALSHA; were they renamed/],
    [
      cluster.port,
      "CROSSSLOT",
      /cluster mode; name some of its nodes in redis.cluster/,
      /runs in cluster mode/,
    ],
  ];
  for (const [port, code, why, atConnect] of cases) {
    const config = configWith(parseConfig("", "f"), { redis: { port, host: "127.0.0.1" } });
    await using redis = new RedisConnection(config);
    await redis.connect();
    if (code === "CROSSSLOT") {
      await redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383);
      const served = async () =>
        /cluster_state:ok/.test(String(await redis.call("CLUSTER", "INFO")));
      await waitFor(served, { what: "the slots" });
    }
    await refusedBy(insertDocument(redis, config, "session", {}, "d"), code, why);
    await assert.rejects(connectRedis(config), (error: Error) => {
      assert(error instanceof ConnectionError);
      assert.match(error.message, atConnect);
      return true;
    });
  }
});

async function refusedBy(call: Promise<unknown>, code: string, why: RegExp): Promise<void> {
  await assert.rejects(call, (error) => {
    assert(error instanceof RedisRefusedError, `${error}`);
    assert.equal(error.code, code);
    assert.match(error.message, why);
    return true;
  });
}
