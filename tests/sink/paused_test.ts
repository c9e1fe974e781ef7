/** A target that an operator has paused, and a partition that another sink has: what had failed before is over. */

import assert from "node:assert/strict";
import {
  ConfigError,
  connectPostgres,
  insertDocument,
  type PartitionStatus,
  pauseTarget,
  readStatus,
  RedisWriteBehind,
  resumeTarget,
  type SinkEvents,
} from "writebehind";
import { drain, type Pipeline, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** A sink in the background, and how often it has reported what. */
function started({ redis, pool, config }: Pick<Pipeline, "redis" | "pool" | "config">) {
  const sink = new RedisWriteBehind(redis, pool, config, "session");
  const heard: (keyof SinkEvents)[] = [];
  sink.events.onAll((name) => heard.push(name));
  sink.start();
  const times = (name: keyof SinkEvents) => heard.filter((one) => one === name).length;
  return { sink, times, partition: () => sink.status.partitions[0]! };
}

/** As `deno task status` has it. */
async function statusOf({ redis, pool, config }: Pipeline): Promise<PartitionStatus> {
  const [status] = await readStatus(redis, pool, config, "session");
  return status!;
}

/** What cannot be applied, until it is over. */
async function refused({ pool }: Pipeline): Promise<() => Promise<void>> {
  await pool.query("ALTER TABLE sessions RENAME COLUMN payload TO hidden");
  return async () => void await pool.query("ALTER TABLE sessions RENAME COLUMN hidden TO payload");
}

const write = ({ redis, config }: Pipeline, id: string) =>
  insertDocument(redis, config, "session", { n: 1 }, id);

Deno.test("paused", (t) =>
  withPipeline(t, {
    "what failed before a pause is over: nothing is stuck, in its process and for all": async (
      pipeline,
    ) => {
      const { redis, config } = pipeline;
      const { sink, times, partition } = started(pipeline);
      await using _stopped = sink;
      await waitFor(() => times("claimed") === 1, { what: "the claim" });
      const over = await refused(pipeline);
      await write(pipeline, "one");
      await waitFor(async () => (await statusOf(pipeline)).failures! >= 3, {
        what: "its failures",
      });
      await pauseTarget(redis, config, "session", "postgresql");
      await over();
      await waitFor(() => times("paused") === 1, { what: "the pause" });
      assert.deepEqual([partition().failuresInARow, partition().lastError], [0, null]);
      await redis.counters.flush();
      const { state, failures, lastError, stuck, lagEvents } = await statusOf(pipeline);
      assert.deepEqual([state, failures, lastError, stuck, lagEvents], ["paused", 0, null, [], 1]);
      await resumeTarget(redis, config, "session", "postgresql");
      await waitFor(async () => (await statusOf(pipeline)).lagEvents === 0, { what: "the end" });
      assert.equal(times("recovered"), 0, "it had not failed since");
    },

    "nor is it where the sink was stopped before": async (pipeline) => {
      const { redis, config } = pipeline;
      const over = await refused(pipeline);
      await write(pipeline, "one");
      const { sink } = started(pipeline);
      await waitFor(async () => (await statusOf(pipeline)).failures! >= 3, {
        what: "its failures",
      });
      await sink.stop();
      await over();
      assert.match((await statusOf(pipeline)).stuck.join(), /failures in a row/);
      await pauseTarget(redis, config, "session", "postgresql");
      assert.deepEqual((await statusOf(pipeline)).stuck, []);
      await resumeTarget(redis, config, "session", "postgresql");
    },

    "with an interval: no failure, and the partition is given back": async (pipeline) => {
      const { redis } = pipeline;
      const config = pipeline.with({ write_behind: { interval_seconds: 0.05 } });
      const { sink, times, partition } = started({ ...pipeline, config });
      await using _stopped = sink;
      await write(pipeline, "one");
      await waitFor(async () => (await statusOf(pipeline)).applied === 1, { what: "the event" });
      assert.equal((await statusOf(pipeline)).owner, sink.process);
      await pauseTarget(redis, config, "session", "postgresql");
      const given = async () => (await statusOf(pipeline)).owner === null;
      await waitFor(given, { what: "it to be given back", deadlineMs: 2000 });
      await write(pipeline, "two");
      await resumeTarget(redis, config, "session", "postgresql");
      await waitFor(async () => (await statusOf(pipeline)).applied === 2, { what: "the next" });
      assert.deepEqual([times("failed"), times("paused"), partition().state], [0, 1, "owner"]);
    },

    "a drain of what is paused says so, and owns nothing": async (pipeline) => {
      const { redis, config } = pipeline;
      await write(pipeline, "one");
      await pauseTarget(redis, config, "session", "postgresql");
      await assert.rejects(drain(pipeline), (error) => {
        assert(error instanceof ConfigError);
        assert.match(error.message, /postgresql is paused .*: run deno task target resume postg/);
        return true;
      });
      await resumeTarget(redis, config, "session", "postgresql");
      await drain(pipeline);
      assert.equal((await statusOf(pipeline)).applied, 1);
    },

    "what a standby could not ask is over, once it could": async (pipeline) => {
      const { sink: owner, times } = started(pipeline);
      await using _owner = owner;
      await waitFor(() => times("claimed") === 1, { what: "the claim" });
      const config = pipeline.with({ write_behind: { interval_seconds: 0.05 } });
      const pool = await connectPostgres(config);
      const ask = pool.query;
      const second = started({ ...pipeline, config, pool });
      await using _second = second.sink;
      await waitFor(() => second.times("standby") === 1, { what: "it to stand by" });
      const { connect } = pool;
      pool.connect = pool.query = () => Promise.reject(new Error("connect ECONNREFUSED"));
      await waitFor(() => second.partition().failuresInARow >= 3, { what: "its failures" });
      Object.assign(pool, { connect, query: ask });
      await waitFor(() => second.partition().failuresInARow === 0, { what: "their end" });
      assert.deepEqual([second.partition().state, second.partition().lastError], ["standby", null]);
      await second.sink.stop();
      await pool.end();
    },
  }));
