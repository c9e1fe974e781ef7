import assert from "node:assert/strict";
import {
  connectRedis,
  consumePeriodically,
  insertDocument,
  RedisWriteBehind,
  type SinkEvents,
} from "writebehind";
import { type Pipeline, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** The names of all that a sink tells, in order, with their fields. */
function listenTo(sink: RedisWriteBehind) {
  const told: { name: keyof SinkEvents; fields: Record<string, unknown> }[] = [];
  sink.events.onAll((name, event) => told.push({ name, fields: { ...event } }));
  const of = (name: keyof SinkEvents) => told.filter((one) => one.name === name);
  return { told, of, names: () => told.map(({ name }) => name) };
}

/** A sink in the background, and what it tells from its first event on. */
function started({ redis, pool, config }: Pipeline) {
  const sink = new RedisWriteBehind(redis, pool, config, "session");
  const heard = listenTo(sink);
  sink.start();
  return { sink, ...heard };
}

Deno.test("what a sink tells", (t) =>
  withPipeline(t, {
    "claimed, applied, parked and released, each once, with its place": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
      await insertDocument(redis, config, "session", { n: 1 }, "good");
      await insertDocument(redis, config, "session", { bad: true }, "bad");
      const sink = new RedisWriteBehind(redis, pool, config, "session");
      const { names, of } = listenTo(sink);
      await sink.drain();
      assert.deepEqual(names(), ["claimed", "parked", "applied", "released"]);
      const { fields } = of("parked")[0]!;
      assert.equal(fields.documentId, "bad");
      assert.equal(fields.sqlstate, "23514");
      const place = { entity: "session", partition: 0, stream: "stream:session" };
      for (const name of names()) {
        const { fields } = of(name)[0]!;
        assert.deepEqual(
          { entity: fields.entity, partition: fields.partition, stream: fields.stream },
          place,
        );
        assert.equal(fields.target, "postgresql");
        assert.match(String(fields.process), new RegExp(`^${Deno.pid}-`));
      }
      await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
    },

    "standby and its end, with two sinks": async (pipeline) => {
      await using first = started(pipeline).sink;
      await waitFor(() => first.status.partitions[0]!.state === "owner", { what: "the first" });
      const second = started(pipeline);
      await using _stopped = second.sink;
      await waitFor(() => second.of("standby").length === 1, { what: "standby" });
      await first.stop();
      await waitFor(() => second.of("claimed").length === 1, { what: "the takeover" });
      await second.sink.stop();
      assert.deepEqual(second.names(), ["standby", "claimed", "released"]);
    },

    "failures, and their end": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const { sink, of } = started(pipeline);
      await using _stopped = sink;
      await waitFor(() => of("claimed").length === 1, { what: "the claim" });
      await pool.query("ALTER TABLE sessions RENAME COLUMN payload TO hidden");
      await insertDocument(redis, config, "session", { n: 1 }, "one");
      await waitFor(() => of("failed").length >= 2, { what: "failures" });
      await pool.query("ALTER TABLE sessions RENAME COLUMN hidden TO payload");
      await waitFor(() => of("recovered").length === 1, { what: "the recovery" });
      await sink.stop();
      assert.equal(of("failed")[0]!.fields.kind, "configuration");
      assert.equal(of("recovered")[0]!.fields.failures, of("failed").length);
    },

    "a stream that goes back under traffic: told, rewound, and nothing dies": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const { sink, of } = started(pipeline);
      await using _stopped = sink;
      const arrived = (id: string) =>
        waitFor(
          async () => (await pool.query("SELECT FROM sessions WHERE id = $1", [id])).rowCount === 1,
          { what: `${id} to arrive` },
        );
      for (let time = 1; time <= 5; time++) {
        // Only what was applied leaves a witness.
        await insertDocument(redis, config, "session", { n: 0 }, `first${time}`);
        await arrived(`first${time}`);
        for (let n = 0; n < 50; n++) {
          await insertDocument(redis, config, "session", { n }, `d${time}-${n}`);
          if (n === 25) await redis.del("stream:session");
        }
        await waitFor(() => of("wentBack").length >= time, { what: `going back ${time}` });
      }
      await insertDocument(redis, config, "session", { n: 0 }, "last");
      await arrived("last");
      assert.equal(of("rewound").length, of("wentBack").length);
    },

    "a trim that fails is told once, and draining goes on": async (pipeline) => {
      const { redis, pool } = pipeline;
      await redis.call("ACL", "SETUSER", "app", "on", ">secret", "+@all", "~*", "&*");
      const config = pipeline.with({ redis: { username: "app", password: "secret" } });
      await using own = await connectRedis(config);
      const sink = consumePeriodically(own, pool, config, "session");
      await using _stopped = sink;
      const { of } = listenTo(sink);
      await redis.call("ACL", "SETUSER", "app", "-xtrim");
      for (let n = 0; n < 20; n++) {
        await insertDocument(own, config, "session", { n }, `d${n}`);
        await waitFor(
          async () => (await pool.query("SELECT FROM sessions")).rowCount === n + 1,
          { what: `document ${n}` },
        );
      }
      await waitFor(() => of("trimFailed").length > 0, { what: "the failed trim" });
      await sink.stop();
      assert.equal(of("trimFailed").length, 1);
      assert.match(String(of("trimFailed")[0]!.fields.error), /xtrim|permission|ACL/i);
      await redis.call("ACL", "DELUSER", "app");
    },

    "a listener that throws does not stop the sink": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "one");
      const sink = new RedisWriteBehind(redis, pool, config, "session");
      const { of } = listenTo(sink);
      sink.events.on("applied", () => {
        throw new Error("mine");
      });
      assert.equal((await sink.drain()).rows, 1);
      assert.equal(of("listenerFailed")[0]!.fields.event, "applied");
    },
  }));
