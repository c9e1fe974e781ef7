import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  connectPostgres,
  consumePeriodically,
  deleteDocument,
  insertDocument,
  RedisWriteBehind,
  updateDocument,
} from "writebehind";
import {
  assertEqual,
  drain,
  type Pipeline,
  reset,
  rowsOf,
  withPipeline,
} from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** A row whose payload says so cannot be stored. */
const refuse = ({ pool }: Pipeline) =>
  pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");

async function parked({ pool }: Pipeline) {
  const { rows } = await pool.query<
    { id: string | null; type: string; sqlstate: string; reason: string; payload: string | null }
  >(`SELECT convert_from(doc_id, 'UTF8') AS id, event_type AS type, sqlstate, reason,
            convert_from(payload, 'UTF8') AS payload
       FROM writebehind_dead_letter WHERE state = 'parked' ORDER BY id`);
  return rows;
}

/** A pool that counts the statements of its connections. */
async function countingPool({ config }: Pipeline) {
  const pool = await connectPostgres(config);
  const counted = { statements: 0 };
  pool.on("connect", (client) => {
    const query = client.query.bind(client);
    client.query = ((...args: Parameters<typeof query>) => {
      counted.statements++;
      return query(...args);
    }) as typeof client.query;
  });
  return { pool, counted };
}

Deno.test("poison", (t) =>
  withPipeline(t, {
    "one bad row in 1,000 is parked, all others flow, at two dozen extra statements": async (
      pipeline,
    ) => {
      const { redis, config } = pipeline;
      const measure = async (bad: number) => {
        await reset(pipeline);
        for (let n = 0; n < 1000; n++) {
          const document = n === bad ? { n, bad: true } : { n };
          await insertDocument(redis, config, "session", document, `d${n}`);
        }
        const { pool, counted } = await countingPool(pipeline);
        const status = await drain({ ...pipeline, pool });
        await pool.end();
        return { status, statements: counted.statements };
      };
      const fine = await measure(-1);
      await refuse(pipeline);
      for (const bad of [0, 417, 999]) {
        const { status, statements } = await measure(bad);
        assert.equal(status.parked, 1);
        assert.equal((await rowsOf(pipeline)).size, 999);
        const [letter] = await parked(pipeline);
        assert.equal(letter!.id, `d${bad}`);
        assert.equal(letter!.sqlstate, "23514");
        assert.match(letter!.reason, /good/);
        assert.deepEqual(JSON.parse(letter!.payload!), { n: bad, bad: true });
        const extra = statements - fine.statements;
        assert(extra <= 24, `row ${bad}: ${extra} extra statements`);
      }
    },

    "a flood of bad rows stays linear": async (pipeline) => {
      const { redis, config } = pipeline;
      await refuse(pipeline);
      for (let n = 0; n < 500; n++) {
        await insertDocument(redis, config, "session", { n, bad: n % 5 > 0 || null }, `d${n}`);
      }
      const { pool, counted } = await countingPool(pipeline);
      const status = await drain({ ...pipeline, pool });
      await pool.end();
      assert.equal(status.parked, 400);
      assert.equal((await rowsOf(pipeline)).size, 100);
      assert(counted.statements < 2 * 500 + 50, `${counted.statements} statements`);
    },

    "payloads that are no JSON are found in one statement": async (pipeline) => {
      const { redis, config } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "good");
      for (let n = 0; n < 200; n++) {
        const payload = n % 2 ? Buffer.from([0x7b, 0xff, 0x7d]) : '{"a": "\\u0000"}';
        await redis.xadd(
          "stream:session",
          "*",
          ...["ts", "1", "doc_id", `d${n}`, "event_type", "insert", "payload", payload],
        );
      }
      const { pool, counted } = await countingPool(pipeline);
      const status = await drain({ ...pipeline, pool });
      await pool.end();
      assert.equal(status.parked, 200);
      assert(counted.statements < 25, `${counted.statements} statements`);
      assert.deepEqual([...(await rowsOf(pipeline)).keys()], ["good"]);
    },

    "a good event before the bad one in the same batch is applied": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await refuse(pipeline);
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await updateDocument(redis, config, "session", "a", { bad: 1 });
      await drain({ ...pipeline, pool });
      assert.deepEqual([...await rowsOf(pipeline)], [["a", '{"n":1e0}']]);
      assert.deepEqual((await parked(pipeline)).map(({ type }) => type), ["update"]);
    },

    "later events of a parked document go behind it, and all others flow": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await refuse(pipeline);
      const sink = consumePeriodically(redis, pool, config, "session");
      await insertDocument(redis, config, "session", { bad: 1 }, "a");
      await waitFor(() => sink.status.parked === 1, { what: "the bad event to be parked" });
      await updateDocument(redis, config, "session", "a", { bad: null, n: 2 });
      await insertDocument(redis, config, "session", { n: 1 }, "b");
      await deleteDocument(redis, config, "session", "a");
      await waitFor(() => sink.status.events === 4, { what: "all events" });
      await sink.stop();
      assert.deepEqual([...(await rowsOf(pipeline)).keys()], ["b"]);
      assert.deepEqual((await parked(pipeline)).map(({ id, type }) => [id, type]), [
        ["a", "insert"],
        ["a", "update"],
        ["a", "delete"],
      ]);
      assert.equal(sink.lastError, null);
    },

    "what cannot be decoded is parked raw": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      const bad: (string | Buffer)[][] = [
        ["ts", "1", "event_type", "insert"],
        ["ts", "1", "doc_id", "x", "event_type", "upsert"],
        ["ts", "1", "doc_id", "x".repeat(10_000), "event_type", "insert", "payload", "{}"],
        ["ts", "1", "doc_id", Buffer.from([0xff, 0xfe]), "event_type", "insert", "payload", "{}"],
        ["anything", "at all"],
      ];
      for (const fields of bad) await redis.xadd("stream:session", "*", ...fields);
      await insertDocument(redis, config, "session", { n: 2 }, "b");
      const status = await drain({ ...pipeline, pool });
      assert.equal(status.parked, bad.length);
      assert.deepEqual([...(await rowsOf(pipeline)).keys()].sort(), ["a", "b"]);
      const { rows } = await pool.query<{ fields: Buffer[]; reason: string }>(
        "SELECT fields, reason FROM writebehind_dead_letter ORDER BY id",
      );
      assert.deepEqual(
        rows.map(({ fields }) => fields.map((field) => field.toString("hex"))),
        bad.map((fields) => fields.map((field) => Buffer.from(field as string).toString("hex"))),
      );
      assert.match(rows[0]!.reason, /no doc_id/);
    },

    "a stream id that does not fit the version is parked, and the offset passes it": async (
      pipeline,
    ) => {
      const { redis, pool } = pipeline;
      const fields = ["ts", "1", "doc_id", "x", "event_type", "insert", "payload", "{}"];
      await redis.xadd("stream:session", "5-1048576", ...fields);
      await redis.xadd("stream:session", "99999999999999-0", ...fields);
      assert.equal((await drain({ ...pipeline, pool })).parked, 2);
      const { rows: [row] } = await pool.query("SELECT last_id FROM writebehind_offset");
      assert.equal(row.last_id, "99999999999999-0");
    },

    "behind another program's sequence that no version holds, each write arrives": async (
      pipeline,
    ) => {
      const { redis, config, pool } = pipeline;
      const later = Date.now() + 3_600_000;
      for (const [index, sequence] of [1048573, 1048574, 1048575, 1048576, 5_000_000].entries()) {
        const id = `d${index}`;
        await redis.xadd("stream:session", `${later + 1000 * index}-${sequence}`, "a", "b");
        const { version } = await insertDocument(redis, config, "session", { n: 1 }, id);
        assert(version !== null, `behind ${sequence}`);
        await updateDocument(redis, config, "session", id, { n: 2 });
      }
      await insertDocument(redis, config, "session", { n: 1 }, "gone");
      await redis.xadd("stream:session", `${later + 9000}-1048576`, "a", "b");
      await deleteDocument(redis, config, "session", "gone");
      await drain({ ...pipeline, pool });
      await assertEqual(pipeline);
      assert.equal((await rowsOf(pipeline)).size, 5);
    },

    "a delete that the database refuses is parked too": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await pool.query("CREATE TABLE IF NOT EXISTS child (id TEXT REFERENCES sessions)");
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await insertDocument(redis, config, "session", { n: 1 }, "b");
      await drain({ ...pipeline, pool });
      await pool.query("INSERT INTO child VALUES ('a')");
      await deleteDocument(redis, config, "session", "a");
      await deleteDocument(redis, config, "session", "b");
      try {
        await drain({ ...pipeline, pool });
        assert.deepEqual([...(await rowsOf(pipeline)).keys()], ["a"]);
        assert.deepEqual((await parked(pipeline)).map(({ type, sqlstate }) => [type, sqlstate]), [
          ["delete", "23503"],
        ]);
      } finally {
        await pool.query("DROP TABLE child");
      }
    },

    "a row that a trigger refuses is parked": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await pool.query(`
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF new.payload ? 'bad' THEN RAISE EXCEPTION 'no bad ones'; END IF; RETURN new; END $$;
        CREATE TRIGGER refuse AFTER INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse();`);
      try {
        for (let n = 0; n < 10; n++) {
          await insertDocument(redis, config, "session", n === 3 ? { bad: 1 } : { n }, `d${n}`);
        }
        await drain({ ...pipeline, pool });
        assert.equal((await rowsOf(pipeline)).size, 9);
        const [letter] = await parked(pipeline);
        assert.equal(letter!.id, "d3");
        assert.equal(letter!.sqlstate, "P0001");
      } finally {
        await pool.query("DROP TRIGGER refuse ON sessions; DROP FUNCTION refuse");
      }
    },

    "a systemic error parks nothing": async (pipeline) => {
      const { redis, config, pool } = pipeline;
      await insertDocument(redis, config, "session", { n: 1 }, "a");
      await pool.query("ALTER TABLE sessions RENAME TO away");
      await pool.query(
        "CREATE VIEW sessions AS SELECT id, payload, created_at, updated_at, version FROM away",
      );
      await pool.query("CREATE RULE no AS ON INSERT TO sessions DO INSTEAD NOTHING");
      try {
        await using sink = new RedisWriteBehind(redis, pool, config, "session");
        await assert.rejects(sink.drain());
        assert.equal((await parked(pipeline)).length, 0);
        assert.equal(sink.status.partitions[0]!.state, "idle");
        assert.equal(await redis.xlen("stream:session"), 1);
      } finally {
        await pool.query("DROP VIEW sessions; ALTER TABLE away RENAME TO sessions");
      }
      await drain({ ...pipeline, pool });
      assert.equal((await rowsOf(pipeline)).size, 1);
    },
  }, ({ pool }) => pool.query("ALTER TABLE sessions DROP CONSTRAINT IF EXISTS good")));
