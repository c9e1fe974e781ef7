import assert from "node:assert/strict";
import { openTarget } from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { makePlace, sharedMariadb } from "./place.ts";

const server = await sharedMariadb();
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());
const DOCUMENTS = 50_003;

Deno.test({
  name: "MariaDB: whoever reads what is parked holds nothing, and finds what was there",
  ignore: server === null,
}, async () => {
  await using place = await makePlace(server!);
  await using target = await openTarget(place.config);
  await target.migrate("session");
  const [keys] = allPartitions(place.config, "session");
  /** Parks so many events, one a document, in an order of its own; some in the same microsecond. */
  const park = (from: number, to: number) =>
    place.query(
      `INSERT INTO writebehind_dead_letter
              (entity, stream, stream_id, doc_id, event_type, ts, payload, code, reason, first_at, last_at)
       SELECT 'session', '${
        keys!.stream
      }', CONCAT(seq, '-0'), CONCAT('d', seq), 'insert', seq, '{}', '', '',
              TIMESTAMPADD(MICROSECOND, -FLOOR(seq / 3), UTC_TIMESTAMP(6)), UTC_TIMESTAMP(6)
         FROM seq_${from}_to_${to}`,
    );
  await park(1, DOCUMENTS);
  const wanted = async (order: string) => {
    const rows = await place.query(
      `SELECT CONVERT(doc_id USING utf8mb4) AS doc FROM writebehind_dead_letter ORDER BY ${order}`,
    );
    return rows.map(({ doc }) => String(doc));
  };
  const letters = target.deadLetters!;
  const listed = await wanted("first_at, id");
  // More than the pool has connections.
  const reading = Array.from({ length: 20 }, () => letters.documents(keys!, { docId: "d1" }, 1));
  for (const reader of reading) assert.equal((await reader.next()).done, false);
  const found: string[] = [];
  for await (const { docId } of letters.list("session", "parked")) {
    if (found.length === 0) await park(DOCUMENTS + 1, DOCUMENTS + 5);
    found.push(docId!);
  }
  assert.deepEqual(found, listed);
  const ids: string[] = [];
  await park(DOCUMENTS + 6, DOCUMENTS + 10);
  const all = await wanted("id");
  for await (const chunk of letters.documents(keys!, { all: true }, 1 << 20)) {
    if (ids.length === 0) await park(DOCUMENTS + 11, DOCUMENTS + 15);
    ids.push(...chunk.map(({ docId }) => String(docId)));
  }
  assert.deepEqual(ids, all);
});
