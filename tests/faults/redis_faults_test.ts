import assert from "node:assert/strict";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  type Config,
  configWith,
  connectRedis,
  consumePeriodically,
  type DeepPartial,
  deleteDocument,
  DocumentError,
  DurabilityError,
  insertDocument,
  RedisRefusedError,
  type RedisWriteBehind,
  seededRandom,
  updateDocument,
} from "writebehind";
import { compareStreamIds } from "writebehind/core/stream_ids.ts";
import { startRedis } from "writebehind/dev/servers/redis.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { resend } from "writebehind/sink/rewind.ts";
import { offsetOf } from "../support/pipeline.ts";
import { documentsOf, type Pipeline, rowsOf, sorted, testPipeline } from "../support/pipeline.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { testRedis, type TestServers, waitFor } from "../support/servers.ts";
import { Author } from "./author.ts";
import { assertExact, keepLedger } from "./ledger.ts";
import { withSeed } from "./seed.ts";
import { drain } from "./sinks.ts";

const STREAM = "stream:session";
const LIMITS: DeepPartial<Config> = {
  redis: { command_timeout_ms: 800 },
  write_behind: { lease_seconds: 1, batch_size: 50, retry_max_ms: 50 },
};

const caught = ({ redis, pool, config }: Pipeline) =>
  caughtUp(redis, pool, config, "session", { deadlineMs: 20_000 });

const well = (sink: RedisWriteBehind) =>
  waitFor(() => sink.lastError === null, { what: "the sink to be well" });

/** Traffic and a sink while `faults` does its worst; then all of it has to be there, by the same sink. */
async function underTraffic(
  pipeline: Pipeline,
  author: Author,
  faults: () => Promise<void>,
): Promise<RedisWriteBehind> {
  const { redis, pool, config } = pipeline;
  await using sink = consumePeriodically(redis, pool, config, "session");
  const writing = author.start();
  try {
    await faults();
  } finally {
    await writing.stop();
  }
  await waitFor(() => redis.status === "ready", { what: "the connection's return" });
  await caught(pipeline);
  await well(sink);
  return sink;
}

/** Sends every document that differs from its row again, as a repair does. */
async function mend(pipeline: Pipeline): Promise<void> {
  const { redis, config } = pipeline;
  const [keys] = allPartitions(config, "session");
  const [documents, rows] = [await documentsOf(pipeline), await rowsOf(pipeline)];
  for (const id of new Set([...documents.keys(), ...rows.keys()])) {
    if (documents.get(id) !== rows.get(id)) await resend(redis, keys!, id);
  }
  await caught(pipeline);
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
}

async function killAndRestart(
  { redis: { dir, port } }: TestServers,
  server: { kill(): Promise<void> },
  appendfsync: "always" | "everysec",
  between: () => Promise<void> = async () => {},
) {
  await server.kill();
  await between();
  const again = await startRedis({ dir, port, extraArgs: ["--appendfsync", appendfsync] });
  assert.equal(again.port, port);
  return again;
}

for (const appendfsync of ["always", "everysec"] as const) {
  Deno.test(`Redis killed and started again on its append-only file (${appendfsync}): nothing is lost`, () =>
    withSeed(async (random) => {
      await using pipeline = await testPipeline(LIMITS, {
        redis: { extraArgs: ["--appendfsync", appendfsync] },
      });
      await keepLedger(pipeline);
      await using stack = new AsyncDisposableStack();
      const author = new Author(pipeline.redis, pipeline.config, { random, paceMs: 2 });
      let server = pipeline.servers.redis;
      const sink = await underTraffic(pipeline, author, async () => {
        for (let round = 0; round < 3; round++) {
          await delay(200 + 300 * random());
          server = await killAndRestart(pipeline.servers, server, appendfsync);
        }
        stack.defer(() => server.stop());
        await delay(200);
      });
      await assertExact(pipeline, author);
      assert.equal(sink.status.wentBack, 0);
    }));
}

Deno.test("Redis that lost the end of its append-only file: the sink says so, and no new write is skipped", async () => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, pool, config, servers } = pipeline;
  await using stack = new AsyncDisposableStack();
  await using sink = consumePeriodically(redis, pool, config, "session");
  const before = new Author(redis, config, { random: seededRandom(1), paceMs: 0 });
  await before.write({ calls: 200 });
  await caught(pipeline);
  const server = await killAndRestart(servers, servers.redis, "everysec", async () => {
    const folder = join(servers.redis.dir, "appendonlydir");
    const [tail] = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".incr.aof"));
    const path = join(folder, tail!.name);
    await Deno.truncate(path, Math.floor((await Deno.stat(path)).size * 0.7));
  });
  stack.defer(() => server.stop());
  await waitFor(() => redis.status === "ready", { what: "the connection's return" });
  await waitFor(() => sink.status.wentBack === 1, { what: "the sink to notice" });
  const after = new Author(redis, config, { random: seededRandom(2), prefix: "new", paceMs: 0 });
  await after.write({ calls: 100 });
  await caught(pipeline);
  const rows = await rowsOf(pipeline);
  for (const [id, document] of after.documents()) assert.equal(rows.get(id), document, id);
  await mend(pipeline);
  await well(sink);
});

Deno.test("scripts flushed, clients killed, a server that sleeps: nothing is lost, nothing twice", () =>
  withSeed(async (random) => {
    const redis = { extraArgs: ["--enable-debug-command", "local"] };
    await using pipeline = await testPipeline(LIMITS, { redis });
    await keepLedger(pipeline);
    // Its own connection: the others are killed.
    await using outside = await connectRedis(
      pipeline.with({ redis: { command_timeout_ms: 5000 } }),
    );
    const author = new Author(pipeline.redis, pipeline.config, { random, paceMs: 2 });
    const sink = await underTraffic(pipeline, author, async () => {
      for (let round = 0; round < 12; round++) {
        await delay(100 * random());
        await outside.script("FLUSH");
        await delay(100 * random());
        await outside.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
        if (round % 4 === 0) await outside.call("DEBUG", "SLEEP", "1.2");
      }
    });
    await assertExact(pipeline, author);
    assert.equal(sink.status.wentBack, 0);
    assert(author.unknown > 0);
  }));

Deno.test("a single connection of the sink is killed: it goes on reading and trimming", async (t) => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, config, pool } = pipeline;
  const clients = async () => {
    const list = await redis.client("LIST") as string;
    return list.split("\n").flatMap((line) => /^id=(\d+)/.exec(line)?.[1] ?? []);
  };
  const others = new Set(await clients());
  await using sink = consumePeriodically(redis, pool, config, "session");
  let n = 0;
  const written = async () => {
    await insertDocument(redis, config, "session", { n }, `d${n++}`);
    await insertDocument(redis, config, "session", { n }, `d${n++}`);
    await caught(pipeline);
    await waitFor(async () => await redis.xlen(STREAM) === 1, { what: "the trim" });
  };
  await written();
  const count = (await clients()).filter((id) => !others.has(id)).length;
  assert(count > 0);
  for (let index = 0; index < count; index++) {
    await t.step(`connection ${index + 1} of ${count}`, async () => {
      const own = (await clients()).filter((id) => !others.has(id));
      await redis.client("KILL", "ID", own[index]!);
      await written();
      await waitFor(
        async () => (await clients()).filter((id) => !others.has(id)).length === count,
        {
          what: "all connections",
        },
      );
    });
  }
  assert.equal(sink.status.wentBack, 0);
});

Deno.test("maxmemory: writers are refused with nothing half-written, a sink drains, and they go on", async () => {
  await using pipeline = await testPipeline(LIMITS);
  const { redis, config, pool } = pipeline;
  const [, used] = /used_memory:(\d+)/.exec(await redis.info("memory"))!;
  const limit = Number(used) + 3 * 2 ** 20;
  await redis.config("SET", "maxmemory", limit);
  const insert = (n: number) =>
    insertDocument(redis, config, "session", { n, pad: "x".repeat(2000) }, `d${n}`);
  const fill = async (from: number) => {
    for (let n = from;; n++) {
      try {
        await insert(n);
      } catch (error) {
        assert(error instanceof RedisRefusedError, `${error}`);
        assert.equal(error.code, "OOM");
        return n;
      }
    }
  };
  const written = await fill(0);
  assert(written > 50);
  // A refused call leaves a little room, in which a shorter one might go through.
  await redis.config("SET", "maxmemory", limit - 2 ** 18);
  await assert.rejects(
    updateDocument(redis, config, "session", "d0", { n: -1 }),
    RedisRefusedError,
  );
  await redis.config("SET", "maxmemory", limit);
  assert.equal(await redis.xlen(STREAM), written);
  assert.equal((await documentsOf(pipeline)).size, written);

  // A sink that begins while Redis is full is the one thing that makes room.
  await using sink = consumePeriodically(redis, pool, config, "session");
  await waitFor(() => sink.status.events === written, { what: "the events" });
  await waitFor(async () => await redis.xlen(STREAM) === 1, { what: "the trim" });
  assert.equal(sink.status.wentBack, 0);
  await waitFor(() => insert(written).then(() => true), { what: "room for a write" });
  await caught(pipeline);
  // Trims that are refused in part do not look like a stream that has gone back.
  const outside = await pool.connect();
  await outside.query("BEGIN; LOCK TABLE sessions IN EXCLUSIVE MODE");
  const more = await fill(written + 1).finally(async () => {
    // So far below what is used that the first trims do not make room yet.
    await redis.config("SET", "maxmemory", limit - 2 ** 18);
    await outside.query("ROLLBACK");
    outside.release();
  });
  await waitFor(() => sink.status.events === more, { what: "the later events" });
  await waitFor(async () => await redis.xlen(STREAM) === 1, { what: "the later trim" });
  await insertDocument(redis, config, "session", {}, "last");
  await caught(pipeline);
  assert.equal(sink.status.wentBack, 0);
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
});

Deno.test("a user that may not run a command of a verb: refused, and neither document nor event is there", async (t) => {
  await using pipeline = await testPipeline();
  const { redis } = pipeline;
  const rules = ["on", ">secret", "~*", "&*", "+@all"];
  for (const command of ["XADD", "JSON.SET", "JSON.MERGE", "DEL", "HSET", "EXPIRE"]) {
    await t.step(command, async () => {
      await redis.flushall();
      await redis.call("ACL", "SETUSER", "app", "reset", ...rules);
      const config = pipeline.with({ redis: { username: "app", password: "secret" } });
      await using app = await connectRedis(config);
      await insertDocument(app, config, "session", { n: 1 }, "old");
      const state = async () => [
        await redis.call("JSON.GET", "session:old"),
        await redis.exists("session:new"),
        await redis.xlen(STREAM),
      ];
      const before = await state();
      await redis.call("ACL", "SETUSER", "app", `-${command.toLowerCase()}`);
      const options = { requestId: crypto.randomUUID() };
      const denied = (error: unknown) =>
        error instanceof DocumentError && error.code === "permission";
      const calls: Record<string, () => Promise<unknown>> = {
        "JSON.SET": () => insertDocument(app, config, "session", {}, "new", options),
        "JSON.MERGE": () => updateDocument(app, config, "session", "old", { n: 2 }, options),
        DEL: () => deleteDocument(app, config, "session", "old", options),
      };
      for (const call of calls[command] ? [calls[command]] : Object.values(calls)) {
        await assert.rejects(call, denied);
        assert.deepEqual(await state(), before);
      }
    });
  }
});

/** A primary and a replica of it, each behind a proxy: the network between them can vanish. */
async function withReplica(overrides: DeepPartial<Config>) {
  await using stack = new AsyncDisposableStack();
  const pipeline = stack.use(await testPipeline(LIMITS));
  const { servers } = pipeline;
  const link = stack.use(await TcpProxy.start(servers.redis));
  const replica = stack.use(await testRedis({ replicaOf: { host: link.host, port: link.port } }));
  const address = stack.use(await TcpProxy.start(servers.redis));
  const config = pipeline.with({ ...overrides, redis: { ...LIMITS.redis, port: address.port } });
  const redis = stack.use(await connectRedis(config));
  /**
   * Kills the primary; what its clients know as its address is the replica's now.
   * @returns the last id that the replica knew of when it was promoted
   */
  const promote = async () => {
    await servers.redis.kill();
    const direct = await connectRedis(pipeline.with({ redis: { port: replica.port } }));
    await direct.replicaof("NO", "ONE");
    const last = await lastGeneratedId(direct, STREAM);
    await direct.close();
    address.switchTo(replica);
    await waitFor(() => redis.status === "ready", { what: "the connection to the new primary" });
    return last;
  };
  const owned = stack.move();
  return {
    pipeline: { ...pipeline, redis, config },
    link,
    replica,
    promote,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

Deno.test("a replica promoted under traffic that waits for it: every confirmed write is there", () =>
  withSeed(async (random) => {
    await using own = await withReplica({ zero_data_loss: { replicas: 1, wait_timeout_ms: 500 } });
    const { pipeline, promote, replica } = own;
    // It confirms what is written after the promotion.
    await using _next = await testRedis({ replicaOf: replica });
    await keepLedger(pipeline);
    const { redis, config } = pipeline;
    const author = new Author(redis, config, { random, paceMs: 2, durability: "replicas" });
    /** Waits for so many confirmed writes, and a random time more. */
    const confirmed = async (what: string) => {
      const before = author.events;
      await waitFor(() => author.events >= before + 100, { what });
      await delay(300 * random());
    };
    await underTraffic(pipeline, author, async () => {
      await confirmed("writes that the replica confirms");
      await promote();
      await confirmed("writes that the next replica confirms");
    });
    const rows = await rowsOf(pipeline);
    assert.deepEqual(sorted(await documentsOf(pipeline)), sorted(author.documents()));
    assert.deepEqual(sorted(rows), sorted(author.documents()));
  }));

for (const clock of ["right", "behind"]) {
  Deno.test(`a stale replica promoted without WAIT, its clock ${clock}: the sink says so, no new write is skipped`, async () => {
    await using own = await withReplica({});
    const { pipeline, link, promote } = own;
    const { redis, config, pool } = pipeline;
    await using sink = consumePeriodically(redis, pool, config, "session");
    const before = new Author(redis, config, { random: seededRandom(1), paceMs: 0 });
    await before.write({ calls: 100 });
    // Each WAIT ends before the command's own deadline, which a busy machine's replica may need longer than.
    await waitFor(async () => await redis.call("WAIT", 1, 200) === 1, {
      what: "the replica to have all of it",
    });
    link.vanish();
    // Ids of a later hour: to the replica, which does not hear of them, its own clock is behind them.
    if (clock === "behind") await redis.call("XSETID", STREAM, `${Date.now() + 3_600_000}-0`);
    await before.write({ calls: 50 });
    await caught(pipeline);
    const offset = await offsetOf(pool, STREAM);
    assert(compareStreamIds(await promote(), offset) < 0, "the replica is stale");
    const after = new Author(redis, config, { random: seededRandom(2), prefix: "new", paceMs: 0 });
    await after.write({ calls: 100 });
    await waitFor(() => sink.status.wentBack > 0, { what: "the sink to notice" });
    await caught(pipeline);
    const rows = await rowsOf(pipeline);
    for (const [id, document] of after.documents()) assert.equal(rows.get(id), document, id);
    await mend(pipeline);
    await well(sink);
    assert.equal(sink.status.wentBack, 1);
  });
}

Deno.test("a stopped replica under WAIT: no case of a call is confirmed", async (t) => {
  await using own = await withReplica({ zero_data_loss: { replicas: 1, wait_timeout_ms: 150 } });
  const { pipeline: { redis, config }, link, replica } = own;
  const durability = "replicas";
  const insert = (id: string, options = {}) =>
    insertDocument(redis, config, "session", { id }, id, { durability, ...options });
  // On a busy machine the replica may need longer than a WAIT: the same request may be made again.
  const confirmed = () => insert("confirmed", { requestId: "r" }).then(() => true, () => false);
  await waitFor(confirmed, { what: "the replica to confirm a write" });
  await replica.kill("SIGSTOP");
  const unconfirmed = (id: string, repeated = false) => (error: unknown) => {
    assert(error instanceof DurabilityError, `${error}`);
    assert.match(error.message, /written, not confirmed/);
    assert.equal(error.receipt.documentId, id);
    assert.equal(error.receipt.repeated, repeated);
    return true;
  };
  const cases: Record<string, () => Promise<unknown>> = {
    "a new write": () => assert.rejects(insert("a"), unconfirmed("a")),
    "an update and a delete": async () => {
      await assert.rejects(
        updateDocument(redis, config, "session", "a", { n: 1 }, { durability }),
        unconfirmed("a"),
      );
      await assert.rejects(
        deleteDocument(redis, config, "session", "a", { durability }),
        unconfirmed("a"),
      );
    },
    "a repeated request, whose first call was confirmed": () =>
      assert.rejects(insert("confirmed", { requestId: "r" }), unconfirmed("confirmed", true)),
    "a write on a connection that is new": async () => {
      await using other = await connectRedis(config);
      await assert.rejects(
        insertDocument(other, config, "session", {}, "b", { durability }),
        unconfirmed("b"),
      );
    },
    "a repeated request on a connection that is new": async () => {
      await using other = await connectRedis(config);
      await assert.rejects(
        insertDocument(other, config, "session", { id: "confirmed" }, "confirmed", {
          durability,
          requestId: "r",
        }),
        unconfirmed("confirmed", true),
      );
    },
    "calls that share a WAIT, among them one that writes nothing": async () => {
      const results = await Promise.allSettled([insert("c"), insert("confirmed"), insert("d")]);
      const reasons = results.map((result) => result.status === "rejected" && result.reason);
      assert(unconfirmed("c")(reasons[0]) && unconfirmed("d")(reasons[2]));
      assert(reasons[1] instanceof DocumentError && reasons[1].code === "exists");
    },
    "a server that forgot the scripts": async () => {
      await redis.script("FLUSH");
      await assert.rejects(insert("e"), unconfirmed("e"));
    },
    "a write that is not forwarded": async () => {
      const silent = configWith(config, {
        dummy_data: { perform_write_behind: { insert: false } },
      });
      await assert.rejects(
        insertDocument(redis, silent, "session", {}, "f", { durability }),
        unconfirmed("f"),
      );
    },
  };
  try {
    for (const [name, run] of Object.entries(cases)) {
      await t.step(name, async () => void await run());
    }
  } finally {
    await replica.kill("SIGCONT");
    link.resetAll();
  }
});

Deno.test("a one-shot drain after Redis came back works too", async () => {
  await using pipeline = await testPipeline(LIMITS);
  await keepLedger(pipeline);
  await using stack = new AsyncDisposableStack();
  const { redis, config, servers } = pipeline;
  const author = new Author(redis, config, { random: seededRandom(5), paceMs: 0 });
  await author.write({ calls: 100 });
  const server = await killAndRestart(servers, servers.redis, "everysec");
  stack.defer(() => server.stop());
  await drain(pipeline);
  await waitFor(() => redis.status === "ready", { what: "the connection's return" });
  await assertExact(pipeline, author);
});
