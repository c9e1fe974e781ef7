import fc from "fast-check";
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { backoff } from "writebehind/core/delay.ts";
import { coalesce } from "writebehind/sink/coalesce.ts";
import { decodeEntry, type Entry, type Event, isEvent } from "writebehind/sink/decode.ts";
import type { Parked } from "writebehind/targets/target.ts";

const entry = (id: string, fields: Record<string, string>): Entry => [
  Buffer.from(id),
  Object.entries(fields).flat().map((text) => Buffer.from(text)),
];
const good = { ts: "1764000000000", doc_id: "a", event_type: "insert", payload: "{}" };

Deno.test("decode reads an event, whatever the order of its fields", () => {
  const { payload, ...rest } = good;
  const event = decodeEntry(entry("5-3", { payload, other: "x", ...rest }));
  assert(isEvent(event));
  const { streamId, docId, key, type, ms, seq, ts } = event;
  assert.deepEqual(
    { streamId, ms, seq, key, type, ts, docId: String(docId), payload: String(event.payload) },
    {
      streamId: "5-3",
      ms: 5,
      seq: 3,
      docId: "a",
      key: "a",
      type: "insert",
      ts: 1764000000000,
      payload: "{}",
    },
  );
});

const { doc_id: _id, ...noId } = good;
const { event_type: _type, ...noType } = good;
for (
  const [what, id, fields, reason] of [
    ["no doc_id", "1-0", noId, /no doc_id/],
    ["no event_type", "1-0", noType, /no event_type/],
    ["an unknown event_type", "1-0", { ...good, event_type: "upsert" }, /event_type is "upsert"/],
    ["an id of 10 kB", "1-0", { ...good, doc_id: "x".repeat(10_000) }, /10000 bytes/],
    ["an empty id", "1-0", { ...good, doc_id: "" }, /0 bytes/],
    ["U+0000 in the id", "1-0", { ...good, doc_id: "a\0b" }, /U\+0000/],
    ["a ts that is no number", "1-0", { ...good, ts: "today" }, /ts is not/],
    ["a sequence over 20 bits", "1-1048576", good, /does not fit a version/],
    ["a time over 43 bits", "8796093022208-0", good, /does not fit a version/],
  ] as [string, string, Record<string, string>, RegExp][]
) {
  Deno.test(`decode refuses ${what}`, () => {
    const parked = decodeEntry(entry(id, fields)) as Parked;
    assert.equal(parked.streamId, id);
    assert.match(parked.reason, reason);
    assert.deepEqual(parked.fields, entry(id, fields)[1]);
  });
}

Deno.test("decode refuses an id that is not UTF-8", () => {
  const [id, fields] = entry("1-0", good);
  fields[3] = Buffer.from([0xff, 0xfe]);
  assert.match((decodeEntry([id, fields]) as Parked).reason, /UTF-8/);
});

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

Deno.test("backoff grows to its cap and never comes in a tight loop", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 2000 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (attempt, at) => {
        const ms = backoff(attempt, 50, 5000, () => at);
        assert(ms >= 5 && ms <= 5000, `${ms}`);
      },
    ),
  );
});
