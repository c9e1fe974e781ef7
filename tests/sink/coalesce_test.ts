import fc from "fast-check";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { coalesce } from "writebehind/sink/coalesce.ts";
import type { Event } from "writebehind/sink/decode.ts";

const events = fc.array(
  fc.record({
    doc: fc.integer({ min: 0, max: 5 }),
    type: fc.constantFrom("insert" as const, "update" as const, "delete" as const),
  }),
  { minLength: 1, maxLength: 60 },
).map((changes) =>
  changes.map(({ doc, type }, index): Event => ({
    streamId: `${index + 1}-0`,
    ms: index + 1,
    seq: 0,
    docId: Buffer.from(`d${doc}`),
    key: `d${doc}`,
    type,
    ts: index + 1,
    payload: type === "delete" ? null : Buffer.from(`{"v":${index}}`),
  }))
);

Deno.test("coalescing keeps exactly the last event of each document, in the order of ids", async () => {
  await fc.assert(fc.asyncProperty(events, async (list) => {
    const batch = await coalesce(
      list,
      () => Promise.reject(new Error("no event lacks a payload")),
    );
    const model = new Map<string, Event>();
    for (const event of list) model.set(event.docId.toString(), event);
    const expected = [...model].sort(([a], [b]) => a < b ? -1 : 1);
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
  const list = ["a", "b", "a", "c", "b"].map((id, index): Event => ({
    streamId: `${index + 1}-0`,
    ms: index + 1,
    seq: 0,
    docId: Buffer.from(id),
    key: id,
    type: "update",
    ts: 0,
    payload: null,
  }));
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
      assert.equal(payload, list[ms - 1]!.payload);
    }
  }));
});

Deno.test("of every event, a batch ends before the first that needs a document that did not fit", async () => {
  const given: [id: string, type: Event["type"], payload: string | null][] = [
    ["b", "update", "1"],
    ["a", "update", null],
    ["gone", "insert", null],
    ["b", "delete", null],
    ["a", "update", null],
    ["b", "insert", null],
    ["c", "update", "2"],
  ];
  const list = given.map(([id, type, payload], index): Event => ({
    streamId: `${index + 1}-0`,
    ms: index + 1,
    seq: 0,
    docId: Buffer.from(id),
    key: id,
    type,
    ts: 0,
    payload: payload === null ? null : Buffer.from(payload),
  }));
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
