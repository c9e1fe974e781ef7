import assert from "node:assert/strict";
import {
  connectPostgres,
  connectRedis,
  consumePeriodically,
  insertDocument,
  type RedisEvents,
  RedisWriteBehind,
  replayDeadLetters,
  type SinkEvents,
  updateDocument,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { drain, type Pipeline, withPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** The events of a sink, in order, with their fields. */
function listenTo(sink: RedisWriteBehind) {
  const heard: { name: keyof SinkEvents; fields: Record<string, unknown> }[] = [];
  sink.events.onAll((name, event) => heard.push({ name, fields: { ...event } }));
  const of = (name: keyof SinkEvents) => heard.filter((one) => one.name === name);
  return { of, names: () => heard.map(({ name }) => name) };
}

/** A sink in the background, and its events from the first on. */
function started({ redis, pool, config }: Pipeline) {
  const sink = new RedisWriteBehind(redis, pool, config, "session");
  const heard = listenTo(sink);
  sink.start();
  return { sink, ...heard };
}

Deno.test("the events of a sink", (t) =>
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

    "a standby that fails does not speak for the owner": async (pipeline) => {
      const { redis, config } = pipeline;
      const first = started(pipeline);
      const { gauges } = partitionKeys(config, "session", 0);
      await waitFor(async () => (await redis.hget(gauges, "state")) === "owner", {
        what: "the owner's state",
      });
      await using other = await connectRedis(config);
      const pool = await connectPostgres(config);
      const second = started({ ...pipeline, redis: other, pool });
      await waitFor(() => second.of("standby").length === 1, { what: "the other to stand by" });
      pool.connect = () => Promise.reject(new Error("away"));
      pool.query = () => Promise.reject(new Error("away"));
      await waitFor(() => second.of("failed").length > 0, { what: "its failure" });
      await second.sink.stop(); // which sends what it has to say
      const { state, owner } = await redis.hgetall(gauges);
      assert.deepEqual([state, owner], ["owner", first.sink.process]);
      await first.sink.stop();
      await pool.end();
    },

    "nor does one that could never ask hide how fresh the owner's rows are": async (pipeline) => {
      const { redis, config } = pipeline;
      const first = started(pipeline);
      await using _first = first.sink;
      await insertDocument(redis, config, "session", { n: 1 }, "one");
      const { gauges } = partitionKeys(config, "session", 0);
      const told = () => redis.hmget(gauges, "at", "freshness_p50_ms");
      await waitFor(async () => Number((await told())[0]) > 0, { what: "its freshness" });
      const before = await told();
      await using other = await connectRedis(config);
      const pool = await connectPostgres(config);
      pool.connect = pool.query = () => Promise.reject(new Error("connect ECONNREFUSED"));
      const second = started({ ...pipeline, redis: other, pool });
      await waitFor(() => second.of("failed").length > 0, { what: "its failure" });
      await second.sink.stop();
      assert.equal(await redis.hget(gauges, "owner"), second.sink.process, "it has said something");
      assert.deepEqual(await told(), before);
      await pool.end();
    },

    "lost, where another sink takes the partition of one that was away": async (pipeline) => {
      const { pool } = pipeline;
      const first = started(pipeline);
      await using _stopped = first.sink;
      await waitFor(() => first.of("claimed").length === 1, { what: "the claim" });
      // As a successor does once the lease has ended.
      await pool.query(
        `UPDATE writebehind_lease SET owner = 'other', epoch = epoch + 1,
                lease_until = clock_timestamp() + interval '5 seconds'`,
      );
      await pool.query("UPDATE writebehind_offset SET owner = 'other', epoch = epoch + 1");
      await insertDocument(pipeline.redis, pipeline.config, "session", { n: 1 }, "one");
      await waitFor(() => first.of("standby").length === 1, { what: "standby" });
      await first.sink.stop();
      assert.deepEqual(first.names(), ["claimed", "lost", "standby"]);
      assert.match(String(first.of("lost")[0]!.fields.error), /another sink owns/);
    },

    "a lease that cannot be renewed or given back, each once": async (pipeline) => {
      const { pool } = pipeline;
      const config = pipeline.with({ write_behind: { lease_seconds: 0.3 } });
      const { sink, of, names } = started({ ...pipeline, config });
      await using _stopped = sink;
      await waitFor(() => of("claimed").length === 1, { what: "the claim" });
      await pool.query("ALTER TABLE writebehind_lease RENAME TO hidden");
      const began = Date.now();
      await waitFor(() => of("leaseNotRenewed").length > 0 && Date.now() - began > 500, {
        what: "more than one renewal",
      });
      await sink.stop();
      await pool.query("ALTER TABLE hidden RENAME TO writebehind_lease");
      assert.deepEqual(names(), ["claimed", "leaseNotRenewed", "releaseFailed"]);
      assert.match(String(of("releaseFailed")[0]!.fields.error), /writebehind_lease/);
    },

    "a connection that reads is lost: claimed again over another one": async (pipeline) => {
      const { redis } = pipeline;
      const { sink, of } = started(pipeline);
      await using _stopped = sink;
      await waitFor(() => of("claimed").length === 1, { what: "the claim" });
      await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await waitFor(() => of("claimed").length === 2, { what: "the claim after it" });
      assert.deepEqual(of("claimed").map(({ fields }) => fields.again), [false, true]);
      const { kind, error } = of("failed")[0]!.fields;
      assert.equal(kind, "transient", String(error));
    },

    "claimed anew, where another has owned it while this one could not ask": async (pipeline) => {
      const { pool, redis } = pipeline;
      const { sink, of } = started(pipeline);
      await using _stopped = sink;
      await waitFor(() => of("claimed").length === 1, { what: "the claim" });
      // As another does that is killed before this one has noticed.
      await pool.query("UPDATE writebehind_lease SET epoch = epoch + 1");
      await pool.query("UPDATE writebehind_offset SET epoch = epoch + 1");
      await redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await waitFor(() => of("claimed").length === 2, { what: "the claim after it" });
      assert.equal(of("lost").length, 0, "it has not noticed");
      assert.deepEqual(of("claimed").map(({ fields }) => fields.again), [false, false]);
    },

    "a batch that takes too long is halved": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      for (let n = 0; n < 4; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
      await pool.query(`
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
          BEGIN IF (SELECT count(*) FROM fresh) > 2 THEN
            RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = '57014';
          END IF; RETURN NULL; END $$;
        CREATE TRIGGER slow AFTER INSERT ON sessions REFERENCING NEW TABLE AS fresh
          FOR EACH STATEMENT EXECUTE FUNCTION slow();`);
      const small = pipeline.with({ write_behind: { batch_size: 4 } });
      const { sink, of } = started({ ...pipeline, config: small });
      await using _stopped = sink;
      await waitFor(() => of("applied").length > 0, { what: "a batch" });
      await pool.query("DROP FUNCTION slow CASCADE");
      assert.deepEqual(of("halved").map(({ fields }) => fields.batchSize), [2]);
      assert.equal(of("failed")[0]!.fields.kind, "too_large");
    },

    "a replay, once a document": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
      await insertDocument(redis, config, "session", { bad: true }, "bad");
      await updateDocument(redis, config, "session", "bad", { n: 2 });
      await drain(pipeline);
      await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
      const replayed: RedisEvents["replayed"][] = [];
      const end = redis.events.on("replayed", (event) => replayed.push(event));
      await replayDeadLetters(redis, pool, config, "session", { all: true }, { dryRun: true });
      await replayDeadLetters(redis, pool, config, "session", { all: true });
      end();
      const [{ entity, partition, target, documentId, outcome }] = replayed as [typeof replayed[0]];
      assert.equal(replayed.length, 1, "a dry run changes nothing");
      assert.deepEqual(
        [entity, partition, target, documentId, outcome],
        ["session", 0, "postgresql", "bad", "applied"],
      );
    },

    "a batch that fails while the sink stops": async (pipeline) => {
      const { redis, pool, config } = pipeline;
      const { sink, of, names } = started(pipeline);
      await using _stopped = sink;
      await waitFor(() => of("claimed").length === 1, { what: "the claim" });
      const outside = await pool.connect();
      await outside.query("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE");
      await insertDocument(redis, config, "session", { n: 1 }, "one");
      const waiting =
        "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()";
      await waitFor(async () => (await outside.query(`SELECT ${waiting}`)).rowCount! > 0, {
        what: "the batch to wait",
      });
      const stopping = sink.stop();
      await outside.query(`SELECT pg_terminate_backend(pid) ${waiting}; ROLLBACK`);
      outside.release();
      await stopping;
      assert.deepEqual(names(), ["claimed", "failed", "released"]);
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

    "a stream that goes back under traffic is rewound, and nothing dies": async (pipeline) => {
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

    "a trim that fails is one event, and draining goes on": async (pipeline) => {
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
      assert.equal(of("listenerFailed")[0]!.fields.listensTo, "applied");
    },
  }));
