/** `streams.keep_seconds`: what all targets hold stays for a while, and no figure and no writer takes it for more. */

import assert from "node:assert/strict";
import type { Buffer } from "node:buffer";
import { BackpressureError, consumePeriodically, insertDocument, readStatus } from "writebehind";
import { readLag } from "writebehind/redis/lag.ts";
import { assertEqual, drain, type Pipeline, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";
import { drain as drainTargets, equal, type Two, withTwo } from "../support/two_targets.ts";

const STREAM = "stream:session";
const SETTINGS = "stream:settings:session";
const DEADLINE_MS = 60_000;

type Written = Pick<Pipeline, "redis" | "config">;
type Parts = Written & Pick<Pipeline, "pool">;

const keeping = (pipeline: Pipeline, streams: Partial<Pipeline["config"]["streams"]>): Parts => ({
  ...pipeline,
  config: pipeline.with({ streams }),
});

/** Writes documents `d<from>` …, many at once. */
async function write({ redis, config }: Written, from: number, to: number, padding = "") {
  for (let at = from; at < to; at += 500) {
    const ids = Array.from({ length: Math.min(500, to - at) }, (_, index) => `d${at + index}`);
    await Promise.all(
      ids.map((id) => insertDocument(redis, config, "session", { id, padding }, id)),
    );
  }
}

async function statusOf({ redis, pool, config }: Parts) {
  const [status] = await readStatus(redis, pool, config, "session");
  const { lagEvents, applied, written, stuck, doubts, warnings } = status!;
  return { lagEvents, applied, written, told: [...stuck, ...doubts, ...warnings] };
}

/** What Redis tools show of the group. */
async function groupLag({ redis }: Parts) {
  const [group] = await redis.xinfo("GROUPS", STREAM) as unknown[][];
  return group![group!.indexOf("lag") + 1];
}

Deno.test("applied events that stay for a while", (t) =>
  withPipeline(t, {
    "they stay for their time, and are trimmed then, though nothing new comes": async (
      pipeline,
    ) => {
      const parts = keeping(pipeline, { keep_seconds: 3 });
      await write(parts, 0, 50);
      const { redis, pool, config } = parts;
      await using sink = consumePeriodically(redis, pool, config, "session");
      await waitFor(() => sink.status.events === 50, {
        what: "the events",
        deadlineMs: DEADLINE_MS,
      });
      assert.equal(await redis.xlen(STREAM), 50);
      await waitFor(async () => await redis.hget(SETTINGS, "kept") === "49", { what: "the note" });
      assert.deepEqual(await statusOf(parts), { lagEvents: 0, applied: 50, written: 50, told: [] });
      assert.equal(await groupLag(parts), 0);
      const [[oldest]] = await redis.xrange(STREAM, "-", "+", "COUNT", 1) as [[string, string[]]];
      await waitFor(async () => await redis.xlen(STREAM) === 1, {
        what: "the trim",
        deadlineMs: DEADLINE_MS,
      });
      assert(Date.now() - Number(oldest.split("-")[0]) >= 3000, "trimmed too soon");
      assert.equal(await redis.hget(SETTINGS, "kept"), "0");
    },

    "figures stay true with much on both sides of the offset": async (pipeline) => {
      const parts = keeping(pipeline, { keep_seconds: 600 });
      const { redis } = parts;
      await write(parts, 0, 3500);
      await drain(parts);
      await write(parts, 3500, 6000);
      const expected = { lagEvents: 2500, applied: 3500, written: 6000, told: [] };
      assert.deepEqual(await statusOf(parts), expected);
      // What is kept goes under the eyes of one that counts it.
      const offset = (await redis.xrange(STREAM, "-", "+", "COUNT", 1500)).at(-1)![0];
      const counting = readLag(redis, [{ stream: STREAM, offset }]);
      for (let n = 0; n < 5; n++) await redis.xtrim(STREAM, "MAXLEN", 5990 - n);
      const [lag] = await counting;
      assert.deepEqual([lag!.events, lag!.certain], [4500, true]);
      // A sink that comes later counts as well.
      await drain(parts);
      assert.deepEqual(await statusOf(parts), { ...expected, lagEvents: 0, applied: 6000 });
      assert.equal(await groupLag(parts), 0);
    },

    "they take half of the room, and none that writers need": async (pipeline) => {
      const parts = keeping(pipeline, { keep_seconds: 600, max_events: 400 });
      const { redis } = parts;
      for (let n = 0; n < 10; n++) {
        await write(parts, 150 * n, 150 * (n + 1));
        await drain(parts);
        assert(await redis.xlen(STREAM) <= 200);
      }
      const kept = Number(await redis.hget(SETTINGS, "kept"));
      assert(kept > 50 && kept < 200, `${kept} are kept`);
      // No sink runs: only what waits counts, with the witness, as it does where nothing is kept.
      await write(parts, 1500, 1899);
      await assert.rejects(write(parts, 1899, 1900), (error) => {
        assert(error instanceof BackpressureError, String(error));
        assert.match(error.message, /holds 400 events, its max_events/);
        return true;
      });
      await drain(parts);
      await write(parts, 1899, 1900);
      await drain(parts);
      await assertEqual(pipeline);
      // Turned off, all goes at the next trim.
      await write(pipeline, 1900, 1901);
      await drain(pipeline);
      assert.deepEqual([await redis.xlen(STREAM), await redis.hget(SETTINGS, "kept")], [1, "0"]);
    },

    "so it is with bytes": async (pipeline) => {
      const max_bytes = 4_000_000;
      const parts = keeping(pipeline, { keep_seconds: 600, max_bytes });
      const { redis } = parts;
      const padding = "x".repeat(20_000);
      for (let n = 0; n < 5; n++) {
        await write(parts, 100 * n, 100 * n + 80, padding);
        await drain(parts);
        assert(await redis.memory("USAGE", STREAM) as number <= max_bytes / 2);
      }
      assert(await redis.xlen(STREAM) > 20);
      let written = 0;
      await assert.rejects(async () => {
        for (; written < 400; written++) {
          await write(parts, 1000 + written, 1001 + written, padding);
        }
      }, /its max_bytes/);
      assert(written > 160, `${written} were written`);
      await drain(parts);
    },

    "a full Redis keeps nothing": async (pipeline) => {
      const parts = keeping(pipeline, { keep_seconds: 10 });
      const { redis, pool, config } = parts;
      await write(parts, 0, 300, "x".repeat(10_000));
      await using sink = consumePeriodically(redis, pool, config, "session");
      await waitFor(() => sink.status.events === 300, {
        what: "the events",
        deadlineMs: DEADLINE_MS,
      });
      await waitFor(async () => await redis.hget(SETTINGS, "kept") === "299", { what: "the note" });
      const used = Number(/used_memory:(\d+)/.exec(await redis.info("memory"))![1]);
      await redis.config("SET", "maxmemory", used - 1_000_000);
      try {
        // Well before their time.
        await waitFor(async () => await redis.xlen(STREAM) === 1, {
          what: "room",
          deadlineMs: 8000,
        });
        await write(parts, 300, 301);
      } finally {
        await redis.config("SET", "maxmemory", 0);
      }
    },

    "a stream that went back: what was kept and is in the target is not resent": async (
      pipeline,
    ) => {
      const parts = keeping(pipeline, { keep_seconds: 600 });
      const { redis } = parts;
      await write(parts, 0, 90);
      await drain(parts);
      const keys = [STREAM, SETTINGS, "session:d0"];
      const dumps = await Promise.all(keys.map((key) => redis.dumpBuffer(key)));
      const last = (await redis.xrevrange(STREAM, "+", "-", "COUNT", 1))[0]![0];
      await write(parts, 90, 100);
      await drain(parts);
      // A replica that had no more was promoted. Its clock is behind: it mints ids that the target has passed.
      for (const [index, key] of keys.entries()) {
        await redis.restore(key, 0, dumps[index] as Buffer, "REPLACE");
      }
      for (let n = 90; n < 100; n++) await redis.call("JSON.DEL", `session:d${n}`);
      const [ms, seq] = last.split("-");
      await redis.call("JSON.SET", "session:d0", "$", '{"id":"d0","padding":"new"}');
      await redis.xadd(
        STREAM,
        `${ms}-${Number(seq) + 1}`,
        ...["ts", "1", "doc_id", "d0", "event_type", "update", "payload", '{"old":true}'],
      );
      const { wentBack } = await drain(parts);
      assert.equal(wentBack, 1);
      const resent = (await redis.xrange(STREAM, `(${last}`, "+")).length - 1;
      assert.equal(resent, 1);
      const { rows } = await pipeline.pool.query("SELECT payload FROM sessions WHERE id = 'd0'");
      assert.equal(rows[0].payload.padding, "new");
    },
  }));

Deno.test("applied events that stay for a while, of several targets", (t) =>
  withTwo(t, async (step) => {
    const streams = { keep_seconds: 600, max_events: 400 };
    const parts = ({ redis, config }: Two) => ({ redis, config });
    const kept = async ({ redis }: Two) => Number(await redis.hget(SETTINGS, "kept"));

    await step("what one lacks is not kept, but waits", async (two) => {
      const { redis, config, a, b } = two;
      await write(parts(two), 0, 150);
      await drainTargets(redis, config, a, b);
      assert.equal(await kept(two), 149);
      await write(parts(two), 150, 200);
      await drainTargets(redis, config, a);
      assert.equal(await redis.xlen(STREAM), 200);
      assert.equal(await kept(two), 149);
      // What b lacks fills the stream; what both hold makes room for it.
      await write(parts(two), 200, 549);
      await assert.rejects(write(parts(two), 549, 550), /holds 400 events, its max_events/);
      await drainTargets(redis, config, a);
      assert.equal(await kept(two), 0);
      assert.equal(await redis.xlen(STREAM), 400);
      await assert.rejects(write(parts(two), 549, 550), /the target b is behind/);
      await drainTargets(redis, config, b);
      await write(parts(two), 549, 550);
      await drainTargets(redis, config, a, b);
      for (const target of [a, b]) await equal(redis, config, target, 550);
    }, { streams });

    await step(
      "one that fills the stream loses its place, and what is kept is the other's",
      async (two) => {
        const { redis, config, a, b } = two;
        await write(parts(two), 0, 150);
        await drainTargets(redis, config, a, b);
        await write(parts(two), 150, 549);
        await drainTargets(redis, config, a);
        const field = await redis.hget(SETTINGS, "target:b");
        assert.match(field!, /^detached /);
        const length = await redis.xlen(STREAM);
        assert(length > 50 && length <= 200, `${length} are left`);
        assert.equal(await kept(two), length - 1);
        await write(parts(two), 549, 550);
      },
      { streams, onFull: "detach" },
    );
  }));
