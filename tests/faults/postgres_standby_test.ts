/** PostgreSQL fails over to a standby: nothing is lost, or what is lost is found, said and applied again. */

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  type Config,
  configWith,
  connectPostgres,
  connectRedis,
  consumePeriodically,
  createTable,
  type DeepPartial,
  insertDocument,
  readStatus,
  type RedisWriteBehind,
  repairTarget,
  verify,
} from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { lastEntryId } from "writebehind/redis/streams.ts";
import { assertEqual, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { asOwner, queryAt, waitFor } from "../support/servers.ts";
import { follows, STANDBY, type Standby, standbyOf } from "../support/standby.ts";
import { Author } from "./author.ts";
import { assertExact, keepLedger } from "./ledger.ts";
import { withSeed } from "./seed.ts";

const DEADLINE_MS = 60_000;

/** A pipeline whose PostgreSQL has a standby, reached by an address that the operator moves. */
interface Pair extends AsyncDisposable {
  pipeline: Pipeline;
  standby: Standby;
  sink: RedisWriteBehind;
  /** what the sink has said, by event */
  said: Record<"offsetWentBack" | "doubted" | "wentBack", unknown[]>;
  /** The primary is gone, and the standby takes its place. */
  failOver(): Promise<void>;
}

async function pair(overrides: DeepPartial<Config> = {}): Promise<Pair> {
  await using stack = new AsyncDisposableStack();
  const own = stack.use(await testPipeline());
  const { postgres } = own.servers;
  const standby = stack.use(await standbyOf(postgres));
  const address = stack.use(await TcpProxy.start(postgres));
  const config = configWith(
    own.with({ postgresql: { port: address.port }, write_behind: { lease_seconds: 1 } }),
    overrides,
  );
  const pool = stack.use(await connectPostgres(config));
  const redis = stack.use(await connectRedis(config));
  await createTable(pool, config, "session");
  const pipeline = { ...own, config, pool, redis };
  const sink = consumePeriodically(redis, pool, config, "session");
  stack.defer(() => sink.stop());
  const said: Pair["said"] = { offsetWentBack: [], doubted: [], wentBack: [] };
  sink.events.on("offsetWentBack", (event) => said.offsetWentBack.push(event));
  sink.events.on("doubted", (event) => said.doubted.push(event));
  sink.events.on("wentBack", (event) => said.wentBack.push(event));
  const owned = stack.move();
  return {
    ...{ pipeline, standby, sink, said },
    failOver: async () => {
      await address.refuse();
      await postgres.stop("immediate");
      await standby.promote();
      address.switchTo(standby.server);
      await address.heal();
      await waitFor(() => pool.query("SELECT"), { what: "the standby", deadlineMs: DEADLINE_MS });
    },
    // The database is dropped where it was made, and that server is gone.
    [Symbol.asyncDispose]: async () => {
      await owned.disposeAsync().catch((error) => {
        if (!/ECONNREFUSED/.test(String(error.suppressed ?? error))) throw error;
      });
    },
  };
}

const caught = ({ redis, pool, config }: Pipeline) =>
  caughtUp(redis, pool, config, "session", { deadlineMs: DEADLINE_MS });

async function statusOf({ redis, pool, config }: Pipeline) {
  const [status] = await readStatus(redis, pool, config, "session");
  return status!;
}

/** Writes documents `d<from>` … one by one, each in a batch of its own. */
async function write(pipeline: Pipeline, from: number, to: number, inBatches = false) {
  for (let n = from; n < to; n++) {
    await insertDocument(pipeline.redis, pipeline.config, "session", { n }, `d${n}`);
    if (inBatches && n % 20 === 19) await caught(pipeline);
  }
  await caught(pipeline);
}

/** Waits until the sink has told Redis how far it is: what is not trimmed before is there in any case. */
async function trimmed({ redis }: Pipeline) {
  const last = await lastEntryId(redis, "stream:session");
  await waitFor(
    async () =>
      (await redis.hget("stream:settings:session", "target:postgresql"))?.includes(last) ?? false,
    { what: "the trim", deadlineMs: DEADLINE_MS },
  );
  return last;
}

/** How many sessions wait for the standby. */
const waiting = async ({ servers }: Pipeline) =>
  (await queryAt<{ pid: number }>(
    servers.postgres.ownerUrl,
    "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%moved AS%'",
  )).map(({ pid }) => pid);

Deno.test("a synchronous standby takes over under traffic: nothing is lost", () =>
  withSeed(async (random) => {
    await using both = await pair();
    const { pipeline, standby, sink, said } = both;
    const { postgres } = pipeline.servers;
    await keepLedger(pipeline);
    await follows(postgres);
    await asOwner(postgres, `ALTER SYSTEM SET synchronous_standby_names = '${STANDBY}'`);
    await asOwner(postgres, "SELECT pg_reload_conf()");
    const { redis, config } = pipeline;
    const author = new Author(redis, config, { random, paceMs: 2 });
    const writing = author.start();
    try {
      await waitFor(() => sink.status.events > 100, { what: "events", deadlineMs: DEADLINE_MS });
      // Nothing can commit, and so nothing is trimmed, while the standby hears nothing.
      standby.link.halfOpen();
      await waitFor(async () => (await waiting(pipeline)).length > 0, {
        what: "a batch to wait for the standby",
        deadlineMs: DEADLINE_MS,
      });
      await delay(300); // a trim may be under way
      const told = await redis.hget("stream:settings:session", "target:postgresql");
      // Whoever cancels the wait makes PostgreSQL say that all is well.
      for (const pid of await waiting(pipeline)) {
        await asOwner(postgres, `SELECT pg_cancel_backend(${pid})`);
      }
      await waitFor(() => /not confirmed by it/.test(sink.lastError?.message ?? ""), {
        what: "the sink to say so",
        deadlineMs: DEADLINE_MS,
      });
      await delay(300);
      assert.equal(await redis.hget("stream:settings:session", "target:postgresql"), told);
      await both.failOver();
      await delay(300);
    } finally {
      await standby.link.heal();
      await writing.stop();
    }
    await caught(pipeline);
    await assertExact(pipeline, author);
    assert.deepEqual(said, { offsetWentBack: [], doubted: [], wentBack: [] });
  }));

Deno.test("a standby that was behind takes over: what the stream has kept is applied again", async () => {
  await using both = await pair({ streams: { keep_seconds: 600 } });
  const { pipeline, standby, said } = both;
  await write(pipeline, 0, 20);
  const last = await trimmed(pipeline);
  await follows(pipeline.servers.postgres);
  await standby.link.refuse();
  await write(pipeline, 20, 60);
  const told = await trimmed(pipeline);
  await both.failOver();
  await caught(pipeline);
  await assertEqual(pipeline);
  const [event, ...more] = said.offsetWentBack as [Record<string, unknown>];
  assert.deepEqual(more, []);
  const { offset, told: wasTold, missing, reason } = event;
  assert.deepEqual([offset, wasTold, missing], [last, told, null]);
  assert.equal(reason, "the stream still holds it, and it is applied again");
  assert.deepEqual([said.doubted, said.wentBack], [[], []]);
  const { doubts, stuck, applied, written, lagEvents } = await statusOf(pipeline);
  assert.deepEqual([doubts, stuck, applied, written, lagEvents], [[], [], 60, 60, 0]);
});

Deno.test("what the stream does not hold any more is said by its range, and a repair brings it", async () => {
  // Half of the room is for what is kept: 100 events, to within a node of the stream.
  await using both = await pair({ streams: { keep_seconds: 600, max_events: 200 } });
  const { pipeline, standby, said } = both;
  const { redis, pool, config } = pipeline;
  await write(pipeline, 0, 20, true);
  const last = await trimmed(pipeline);
  await follows(pipeline.servers.postgres);
  await standby.link.refuse();
  await write(pipeline, 20, 400, true);
  await trimmed(pipeline);
  const first = (await redis.xrange("stream:session", "-", "+", "COUNT", 1))[0]![0];
  const held = await redis.xlen("stream:session");
  assert(held > 1 && held <= 200, `${held} are kept`);
  await both.failOver();
  await caught(pipeline);
  const [event] = said.offsetWentBack as [Record<string, unknown>];
  assert.deepEqual(event!.missing, { after: last, upTo: first });
  assert(
    String(event!.reason).startsWith(
      `the stream does not hold what came after ${last}, up to ${first}`,
    ),
  );
  assert.equal(said.wentBack.length, 0);
  assert.match((await statusOf(pipeline)).doubts.join(), /events up to \S+ were removed from/);
  const { mismatches } = await verify(redis, pool, config, "session");
  assert.equal(mismatches.length, 380 - held, "all that is held was applied again");
  await repairTarget(redis, config, "session", mismatches);
  await caught(pipeline);
  await assertEqual(pipeline);
  await verify(redis, pool, config, "session");
  assert.deepEqual((await statusOf(pipeline)).doubts, []);
});
