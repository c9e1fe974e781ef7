import assert from "node:assert/strict";
import {
  BackpressureError,
  configWith,
  deleteDocument,
  insertDocument,
  readByIds,
  RedisConnection,
  RedisRefusedError,
  updateDocument,
} from "writebehind";
import { contents, events, refusedWith } from "../support/documents.ts";
import { emptyRedis } from "../support/own_redis.ts";

Deno.test("a limit that was set by hand to no number is refused by its name, and nothing is written", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const settings = "stream:settings:session";
  await insertDocument(redis, config, "session", { a: 1 }, "a");
  for (const limit of ["max_events", "max_bytes"]) {
    const before = await redis.hget(settings, limit);
    for (const bad of ["many", "", null]) {
      await (bad === null ? redis.hdel(settings, limit) : redis.hset(settings, limit, bad));
      await assert.rejects(updateDocument(redis, config, "session", "a", { a: 2 }), {
        name: "ConfigError",
        message: `Cannot update a: ${settings} has no number for ${limit}; set it: ` +
          `HSET ${settings} ${limit} 10000000`,
      });
    }
    await redis.hset(settings, limit, before!);
  }
  for (const noted of ["largest", "kept"]) await redis.hset(settings, noted, "x");
  await updateDocument(redis, config, "session", "a", { a: 3 });
  assert.equal(await redis.xlen("stream:session"), 2);
});

Deno.test("past max_events writers are told to stop, reads go on, and writing goes on after a trim", async () => {
  await using own = await emptyRedis({ streams: { max_events: 3 } });
  const { redis, config } = own;
  for (const id of ["a", "b", "c"]) await insertDocument(redis, config, "session", { id }, id);
  const before = await contents(redis);
  for (
    const call of [
      () => insertDocument(redis, config, "session", {}, "d"),
      () => updateDocument(redis, config, "session", "a", { x: 1 }),
      () => deleteDocument(redis, config, "session", "a"),
    ]
  ) {
    await assert.rejects(call, (error) => {
      assert(error instanceof BackpressureError);
      assert.deepEqual([error.limit, error.current], ["max_events", 3]);
      assert.match(error.message, /stream:session holds 3 events/);
      return true;
    });
  }
  assert.deepEqual(await contents(redis), before);
  assert.deepEqual(await readByIds(redis, config, "session", ["a"]), [{ id: "a" }]);
  await redis.xtrim("stream:session", "MAXLEN", 1);
  await deleteDocument(redis, config, "session", "a");
});

Deno.test("the limit that the first writer set holds for all", async () => {
  await using own = await emptyRedis({ streams: { max_events: 1 } });
  const { redis, config } = own;
  await insertDocument(redis, config, "session", {}, "a");
  const more = configWith(config, { streams: { max_events: 100 } });
  await assert.rejects(insertDocument(redis, more, "session", {}, "b"), BackpressureError);
});

Deno.test("past max_bytes writers are told to stop", async () => {
  await using own = await emptyRedis({ streams: { max_bytes: 200_000 } });
  const { redis, config } = own;
  let written = 0;
  await assert.rejects(async () => {
    for (; written < 100; written++) {
      await insertDocument(redis, config, "session", { a: "x".repeat(10_000) }, `d${written}`);
    }
  }, (error) => {
    assert(error instanceof BackpressureError);
    assert.equal(error.limit, "max_bytes");
    assert(error.current >= 200_000 && error.current < 300_000, `${error.current} bytes`);
    return true;
  });
  assert.equal((await events(redis)).length, written);
  assert.equal(await redis.exists(`session:d${written}`), 0);
});

Deno.test("max_in_flight bounds the calls that wait for their reply", async () => {
  await using own = await emptyRedis({ redis: { max_in_flight: 2 } });
  const { redis, config } = own;
  const calls = ["a", "b", "c"].map((id) => insertDocument(redis, config, "session", {}, id));
  const results = await Promise.allSettled(calls);
  assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "fulfilled", "rejected"]);
  const { reason } = results[2] as PromiseRejectedResult;
  assert(reason instanceof BackpressureError && reason.limit === "max_in_flight");
  assert.equal(await redis.exists("session:c"), 0);
  await insertDocument(redis, config, "session", {}, "c");
  assert.equal(redis.callsInFlight, 0);
});

Deno.test("a user who may not run a command of the script writes nothing", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: 1 }, "kept");
  const verbs: Record<string, (user: RedisConnection, requestId: string) => Promise<unknown>> = {
    insert: (user, requestId) => insertDocument(user, config, "session", {}, "d", { requestId }),
    update: (user, requestId) =>
      updateDocument(user, config, "session", "kept", { a: 2 }, { requestId }),
    delete: (user, requestId) => deleteDocument(user, config, "session", "kept", { requestId }),
  };
  const denied: [string, string[]][] = [
    ["XADD", ["insert", "update", "delete"]],
    ["XLEN", ["insert", "update", "delete"]],
    ["TYPE", ["update", "delete"]],
    ["HMGET", ["insert", "update", "delete"]],
    ["HSET", ["insert", "update", "delete"]],
    ["EXPIRE", ["insert", "update", "delete"]],
    ["JSON.SET", ["insert"]],
    ["JSON.MERGE", ["update"]],
    ["JSON.GET", ["update"]],
    ["JSON.DEBUG", ["update"]],
    ["DEL", ["delete"]],
    ["EVALSHA", ["insert", "update", "delete"]],
  ];
  const problems: string[] = [];
  for (const [command, refused] of denied) {
    await redis.acl("SETUSER", "poor", "reset", "on", ">pw", "~*", "&*", "+@all", `-${command}`);
    const user = new RedisConnection(config, { username: "poor", password: "pw" });
    await user.connect();
    for (const verb of refused) {
      await redis.del("session:d");
      await insertDocument(redis, config, "session", { a: 1 }, "kept", { overwrite: true });
      await refusedWith(redis, "permission", () => verbs[verb]!(user, `${command} ${verb}`)).catch(
        (error: Error) => {
          problems.push(`${verb} without ${command}: ${error.message.split("\n")[0]}`);
        },
      );
    }
    user.disconnect();
  }
  assert.deepEqual(problems, []);
  // Keys that the user may not touch count as well.
  await redis.acl("SETUSER", "poor", "reset", "on", ">pw", "~session:*", "&*", "+@all");
  await using user = new RedisConnection(config, { username: "poor", password: "pw" });
  await user.connect();
  await refusedWith(redis, "permission", () => verbs.insert!(user, "r"));
  await redis.acl("DELUSER", "poor");
});

Deno.test("a user without HSET or RESTORE writes nothing either, where only large documents need it", async () => {
  await using own = await emptyRedis({ documents: { max_bytes: 1000 } });
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: "x".repeat(900) }, "kept");
  await redis.hset("stream:settings:session", "largest", 10);
  const cases: [string, (user: RedisConnection) => Promise<unknown>][] = [
    ["HSET", (user) => insertDocument(user, config, "session", { a: "x".repeat(100) }, "d")],
    ["HSET", (user) => updateDocument(user, config, "session", "kept", { b: 1 })],
    ["DUMP", (user) => updateDocument(user, config, "session", "kept", { b: "x".repeat(200) })],
    ["RESTORE", (user) => updateDocument(user, config, "session", "kept", { b: "x".repeat(200) })],
  ];
  const problems: string[] = [];
  for (const [command, call] of cases) {
    await redis.acl("SETUSER", "poor", "reset", "on", ">pw", "~*", "&*", "+@all", `-${command}`);
    await using user = new RedisConnection(config, { username: "poor", password: "pw" });
    await user.connect();
    await redis.del("session:d");
    await redis.call("JSON.SET", "session:kept", "$", JSON.stringify({ a: "x".repeat(900) }));
    await refusedWith(redis, "permission", () => call(user)).catch((error: Error) => {
      problems.push(`without ${command}: ${error.message.split("\n")[0]}`);
    });
  }
  await redis.acl("DELUSER", "poor");
  assert.deepEqual(problems, []);
});

Deno.test("a Redis that takes no writes is named, and nothing is written", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  await insertDocument(redis, config, "session", { a: 1 }, "kept");
  const states: [code: string, enter: string[], leave: string[]][] = [
    ["OOM", ["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]],
    ["NOREPLICAS", ["CONFIG", "SET", "min-replicas-to-write", "1"], [
      ...["CONFIG", "SET", "min-replicas-to-write", "0"],
    ]],
    ["READONLY", ["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]],
  ];
  for (const [code, [enter = "", ...enterArgs], [leave = "", ...leaveArgs]] of states) {
    const before = await contents(redis);
    await redis.call(enter, ...enterArgs);
    try {
      for (
        const call of [
          () => insertDocument(redis, config, "session", {}, "d"),
          () => updateDocument(redis, config, "session", "kept", { a: 2 }),
        ]
      ) {
        await assert.rejects(call, (error) => {
          assert(error instanceof RedisRefusedError, `${code}: ${error}`);
          assert.equal(error.code, code);
          assert(error.message.includes(`: Redis at ${redis.address} refuses, `), error.message);
          if (code === "READONLY") assert.match(error.message, /it is a replica, .* its primary/);
          return true;
        });
      }
    } finally {
      await redis.call(leave, ...leaveArgs);
    }
    assert.deepEqual(await contents(redis), before);
  }
});
