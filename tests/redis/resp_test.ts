import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { configWith, parseConfig } from "writebehind";
import { ReplyError, RespConnection } from "writebehind/redis/resp.ts";
import { emptyRedis } from "../support/own_redis.ts";

Deno.test("a Redis that takes the connection and never answers: one clear error, nothing left open", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted: Deno.Conn[] = [];
  const accepting = (async () => {
    for await (const connection of listener) accepted.push(connection);
  })();
  const config = configWith(parseConfig("", "f"), {
    redis: { host: "127.0.0.1", port: listener.addr.port, command_timeout_ms: 100 },
  });
  // Several, so that timers of the same time fall into one turn of the event loop.
  const opening = Array.from({ length: 20 }, () => RespConnection.open(config, config.redis));
  for (const { status, reason } of await Promise.allSettled(opening) as PromiseRejectedResult[]) {
    assert.equal(status, "rejected");
    assert.match(reason.message, /Cannot connect to Redis at .* no reply in time/);
  }
  for (const connection of accepted) connection.close();
  listener.close();
  await accepting;
});

Deno.test("an error that Redis answers fails its own call only", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await redis.set("text", "x");
  const connection = await RespConnection.open(config, config.redis);
  try {
    const refused = (error: unknown) =>
      error instanceof ReplyError && /^WRONGTYPE/.test(error.message);
    await assert.rejects(connection.call(["XLEN", "text"]), refused);
    await assert.rejects(connection.entries(["XRANGE", "text", "-", "+"], () => 1), refused);
    await assert.rejects(
      connection.entries(["XREAD", "STREAMS", "text", "0"], () => 1),
      refused,
    );
    assert.deepEqual(await connection.entries(["XREAD", "STREAMS", "none", "0"], () => 1), []);
    assert.deepEqual(await connection.call(["GET", "text"]), Buffer.from("x"));
    assert.deepEqual(
      await connection.call(["EVAL", "return {1, {}, {'a', false}}", "0"]),
      [1, [], [Buffer.from("a"), null]],
    );
  } finally {
    connection.close();
  }
});
