import assert from "node:assert/strict";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { PostgresDeadLetters } from "writebehind/targets/postgres/dead_letters.ts";
import { testPipeline } from "../../support/pipeline.ts";

const DOCUMENTS = 50_003;

Deno.test("PostgreSQL: whoever reads what is parked holds nothing, and finds what was there", async () => {
  await using pipeline = await testPipeline();
  const { pool, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  /** Parks so many events, one a document, in an order of its own; some in the same microsecond. */
  const park = (from: number, to: number) =>
    pool.query(
      `INSERT INTO writebehind_dead_letter
              (entity, stream, stream_id, doc_id, event_type, ts, payload, sqlstate, reason, first_at)
       SELECT 'session', $1, n || '-0', convert_to('d' || n, 'UTF8'), 'insert', n, '{}', '', '',
              now() - n / 3 * interval '1 microsecond'
         FROM generate_series($2::int, $3::int) AS n`,
      [keys.stream, from, to],
    );
  await park(1, DOCUMENTS);
  const letters = new PostgresDeadLetters(pool, config);
  const open = async () => {
    const { rows } = await pool.query<{ open: string }>(
      `SELECT count(*) AS open FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'`,
    );
    return Number(rows[0]!.open);
  };
  let parked = DOCUMENTS;
  /** All that is found, while each page more is parked. */
  const found = async <Item>(items: AsyncIterable<Item>, flat: (item: Item) => string[]) => {
    const ids: string[] = [];
    for await (const item of items) {
      if (ids.length === 0) {
        assert.equal(await open(), 0, "no transaction is open");
        await park(parked + 1, parked + 5);
        parked += 5;
      }
      ids.push(...flat(item));
    }
    return ids;
  };
  const wanted = (order: string) =>
    pool.query<{ doc: string }>(
      `SELECT convert_from(doc_id, 'UTF8') AS doc FROM writebehind_dead_letter ORDER BY ${order}`,
    ).then(({ rows }) => rows.map(({ doc }) => doc));
  for (let look = 0; look < 2; look++) {
    const documents = await wanted("id");
    assert.deepEqual(
      await found(
        letters.documents(keys, { all: true }, 1 << 20),
        (chunk) => chunk.map(({ docId }) => String(docId)),
      ),
      documents,
    );
    const listed = await wanted("first_at, id");
    assert.deepEqual(
      await found(letters.list("session", "parked"), ({ docId }) => [docId!]),
      listed,
    );
  }
});
