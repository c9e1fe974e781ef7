import fc from "fast-check";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { coalesce } from "writebehind/sink/coalesce.ts";
import { decodeEntry, type Event } from "writebehind/sink/decode.ts";

/** Events as they come from a stream, at 1-0, 2-0 and so on. */
const eventsOf = (given: [id: string, type: Event["type"], payload: string | null][]) =>
  given.map(([id, type, payload], index) => {
    const fields = ["doc_id", id, "event_type", type, "ts", `${index + 1}`];
    if (payload !== null) fields.push("payload", payload);
    const entry = [`${index + 1}-0`, ...fields].map((text) => Buffer.from(text));
    return decodeEntry([entry[0]!, entry.slice(1)]) as Event;
  });

/** Ids of which some begin as others do, in all lengths of UTF-8; `sameHash` is as if all their hashes were the same. */
const events = fc.record({
  changes: fc.array(
    fc.tuple(
      fc.constantFrom("d", "d0", "d00", "d1", "e", "ä", "日本", "😀"),
      fc.constantFrom("insert" as const, "update" as const, "delete" as const),
    ),
    { minLength: 1, maxLength: 60 },
  ),
  sameHash: fc.boolean(),
}).map(({ changes, sameHash }) => {
  const all = eventsOf(
    changes.map(([id, type], index) => [id, type, type === "delete" ? null : `{"v":${index}}`]),
  );
  if (sameHash) { for (const event of all) Object.defineProperty(event, "hash", { value: 7 }); }
  return all;
});

Deno.test("coalescing keeps exactly the last event of each document, in the order of ids", async () => {
  await fc.assert(fc.asyncProperty(events, async (list) => {
    const batch = await coalesce(
      list,
      () => Promise.reject(new Error("no event lacks a payload")),
    );
    const model = new Map<string, Event>();
    for (const event of list) model.set(event.docId.toString(), event);
    const expected = [...model].sort(([, a], [, b]) => Buffer.compare(a.docId, b.docId));
    const kept = expected.filter(([, event]) => event.type !== "delete");
    assert.deepEqual(
      batch.upserts.map(({ id, ms, payload }) => [id.toString(), ms, payload.toString()]),
      kept.map(([id, event]) => [id, event.ms, event.payload!.toString()]),
    );
    assert.deepEqual(
      batch.removals.map(({ id, ms }) => [id.toString(), ms]),
      expected.filter(([, event]) => event.type === "delete").map(([id, event]) => [id, event.ms]),
    );
    const first = (key: string) => list.find((event) => event.key === key)!;
    for (const { key, fresh } of batch.upserts) {
      assert.equal(fresh, first(key).type === "insert", "only a first insert expects no row");
    }
    assert.equal(batch.events, list.length);
    assert.equal(batch.lastId, list.at(-1)!.streamId);
  }));
});

Deno.test("a batch ends before the first document that did not fit", async () => {
  const list = eventsOf(["a", "b", "a", "c", "b"].map((id) => [id, "update", null]));
  const batch = await coalesce(
    list,
    (ids) => Promise.resolve(ids.slice(0, 2).map((id) => Buffer.from(`{"id":"${id}"}`))),
  );
  assert.equal(batch.lastId, "3-0");
  assert.deepEqual(batch.upserts.map(({ id, ms }) => [id.toString(), ms]), [["a", 3], ["b", 2]]);
});

Deno.test("of every event, each is kept, in the stream's order", async () => {
  await fc.assert(fc.asyncProperty(events, async (list) => {
    const never = () => Promise.reject(new Error("no event lacks a payload"));
    const batch = await coalesce(list, never, true);
    const rows = (deletes: boolean) =>
      list.filter(({ type }) => (type === "delete") === deletes).map(({ key, ms }) => [key, ms]);
    assert.deepEqual(batch.upserts.map(({ key, ms }) => [key, ms]), rows(false));
    assert.deepEqual(batch.removals.map(({ key, ms }) => [key, ms]), rows(true));
    for (const { ms, fresh, payload } of batch.upserts) {
      assert.equal(fresh, list[ms - 1]!.type === "insert");
      assert.deepEqual(payload, list[ms - 1]!.payload);
    }
  }));
});

Deno.test("of every event, a batch ends before the first that needs a document that did not fit", async () => {
  const list = eventsOf([
    ["b", "update", "1"],
    ["a", "update", null],
    ["gone", "insert", null],
    ["b", "delete", null],
    ["a", "update", null],
    ["b", "insert", null],
    ["c", "update", "2"],
  ]);
  const batch = await coalesce(
    list,
    (ids) =>
      Promise.resolve(ids.slice(0, 2).map((id) => String(id) === "gone" ? null : Buffer.from("3"))),
    true,
  );
  assert.deepEqual([batch.lastId, batch.events, batch.noops], ["5-0", 5, 1]);
  assert.deepEqual(batch.upserts.map(({ ms, payload }) => [ms, String(payload)]), [
    [1, "1"],
    [2, "3"],
    [5, "3"],
  ]);
  assert.deepEqual(batch.removals.map(({ ms }) => ms), [4]);
});
