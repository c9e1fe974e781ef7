import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import type { Parked } from "writebehind/targets";
import { decodeEntry, type Entry, isEvent } from "writebehind/sink/decode.ts";

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

Deno.test("hashes of ids differ in their low bits, whatever the ids are made of", () => {
  // By the Thue–Morse sequence, which makes sums of powers the same in their low bits (Pachocki and Radoszewski, 2013).
  let words = ["!", "a"];
  for (let doubled = 0; doubled < 5; doubled++) {
    const [one, other] = words as [string, string];
    words = [one + other, other + one];
  }
  const low = new Set<number>();
  for (let n = 0; n < 4096; n++) {
    const id = Array.from({ length: 16 }, (_, at) => words[n >> at & 1]).join("");
    const event = decodeEntry(entry("1-0", { ...good, doc_id: id }));
    assert(isEvent(event));
    low.add(event.hash & 4095);
  }
  // By chance, 2,589 of them differ.
  assert(low.size > 2000, `${low.size} of 4096`);
});
