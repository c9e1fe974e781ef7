/** Entries that another program may add, and ids of every byte: what is right is applied, the rest parked, no writer harmed. */

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  consumePeriodically,
  insertDocument,
  listDeadLetters,
  updateDocument,
  verify,
} from "writebehind";
import { judge, keepLedger } from "../faults/ledger.ts";
import { documentsOf, type Pipeline, rowsOf, sorted, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

type Field = string | Buffer;
const STREAM = "stream:session";
const event = (more: Record<string, Field> = {}): Field[] =>
  Object.entries({ ts: "1", doc_id: "odd", event_type: "insert", payload: '{"n":1}', ...more })
    .flat();
const raw = (...bytes: number[]) => Buffer.from(bytes);
const without = (name: string) => {
  const fields = event();
  fields.splice(fields.indexOf(name), 2);
  return fields;
};

/** Entries of which no row can come. */
const BAD: Record<string, Field[]> = {
  "no field of ours": ["a", "b"],
  "a field without a name": ["", "x"],
  "an empty name and value": ["", ""],
  "no doc_id": without("doc_id"),
  "no event_type": without("event_type"),
  "an empty doc_id": event({ doc_id: "" }),
  "a doc_id of 513 bytes": event({ doc_id: "x".repeat(513) }),
  "a doc_id of 1 MB": event({ doc_id: "x".repeat(1_000_000) }),
  "a doc_id with U+0000": event({ doc_id: "a\0b" }),
  "a doc_id that is not UTF-8": event({ doc_id: raw(0xff, 0xfe) }),
  "a doc_id that is overlong UTF-8": event({ doc_id: raw(0xc0, 0x80) }),
  "a doc_id of a lone surrogate": event({ doc_id: raw(0xed, 0xa0, 0x80) }),
  "a doc_id beyond Unicode": event({ doc_id: raw(0xf4, 0x90, 0x80, 0x80) }),
  "a doc_id that is cut": event({ doc_id: raw(0x61, 0xe2, 0x82) }),
  "an event_type of none": event({ event_type: "" }),
  "an event_type in capitals": event({ event_type: "INSERT" }),
  "an event_type with a blank": event({ event_type: "insert " }),
  "an event_type of bytes": event({ event_type: raw(0, 0xff) }),
  "an event_type of 1 MB": event({ event_type: "x".repeat(1_000_000) }),
  "a payload that is empty": event({ payload: "" }),
  "a payload that is a word": event({ payload: "none" }),
  "a payload that is cut": event({ payload: '{"a":' }),
  "a payload that goes on": event({ payload: "{} {}" }),
  "a payload with U+0000": event({ payload: '{"a":"\\u0000"}' }),
  "a payload with a lone surrogate": event({ payload: '{"a":"\\ud800"}' }),
  "a payload that is not UTF-8": event({ payload: raw(0x7b, 0xff, 0x7d) }),
  "a payload of NUL bytes": event({ payload: raw(0, 0, 0) }),
  "a payload with a BOM": event({ payload: "\ufeff{}" }),
  "a payload of NaN": event({ payload: "NaN" }),
  "a payload in single quotes": event({ payload: "{'a':1}" }),
  "a payload with a comma too many": event({ payload: '{"a":1,}' }),
  "a payload of 20,000 arrays": event({ payload: "[".repeat(20_000) + "]".repeat(20_000) }),
  "a number past numeric": event({ payload: "1e999999" }),
};

/** Entries that are events, if odd ones: a row may come of them, or a parked event, but nothing stops. */
const ODD: Record<string, Field[]> = {
  "doc_id twice": [...event({ doc_id: "first" }), "doc_id", "odd"],
  "event_type twice": [...event(), "event_type", "delete"],
  "payload twice": [...event(), "payload", '{"n":2}'],
  "10,000 fields more": [
    ...event(),
    ...Array.from({ length: 10_000 }, (_, n) => [`f${n}`, "x"]).flat(),
  ],
  "a field of 5 MB more": [...event(), "more", "x".repeat(5_000_000)],
  "names that objects have": [...event(), "__proto__", "x", "constructor", "y", "toString", "z"],
  "fields in another order": ["payload", "{}", "event_type", "insert", "doc_id", "odd", "ts", "1"],
  ...Object.fromEntries(
    [
      "-1",
      "-99999999999999999999",
      "9".repeat(30),
      "1.5",
      "1e3",
      "1e400",
      "NaN",
      "Infinity",
      "",
      " 1",
      "0x10",
      "soon",
      "253402300800000",
      "8640000000000001",
    ]
      .map((ts) => [`a ts of ${ts || "nothing"}`, event({ ts })]),
  ),
  "no ts": without("ts"),
  "a ts of bytes": event({ ts: raw(0xff) }),
  "no payload, no document": without("payload"),
  "a delete of nobody": event({ event_type: "delete" }),
  "a delete with a payload": event({ event_type: "delete", payload: "nonsense" }),
  "an update of nobody": event({ event_type: "update" }),
  "a payload of null": event({ payload: "null" }),
  "a payload of a number": event({ payload: "1e400" }),
  "a payload of an array": event({ payload: "[1]" }),
  "a payload with keys twice": event({ payload: '{"a":1,"a":2}' }),
  "a payload of 127 arrays": event({ payload: "[".repeat(127) + "]".repeat(127) }),
  "a payload of blanks and JSON": event({ payload: `${" ".repeat(100_000)}{}` }),
  "a doc_id of control characters": event({ doc_id: "\u0001\u001b[2J\u007f\r\n" }),
  "a doc_id that is like a key": event({ doc_id: "session:x{1}*?[a]" }),
  "a doc_id that is SQL": event({ doc_id: "'; DROP TABLE sessions; --" }),
};

async function beside(pipeline: Pipeline, entries: Record<string, Field[]>): Promise<number> {
  const { redis, config } = pipeline;
  let n = 0;
  for (const [name, fields] of Object.entries(entries)) {
    await insertDocument(redis, config, "session", { n }, `before ${name}`);
    await redis.xadd(
      STREAM,
      "*",
      ...fields.map((field) => field === "odd" ? `odd ${name}` : field),
    );
    await updateDocument(redis, config, "session", `before ${name}`, { behind: n++ });
  }
  return 3 * n;
}

Deno.test("entries of other programs, good and bad, in between", async (t) => {
  await using pipeline = await testPipeline();
  await keepLedger(pipeline);
  const { redis, pool, config } = pipeline;
  await using sink = consumePeriodically(redis, pool, config, "session");
  let events = await beside(pipeline, BAD);
  const applied = () =>
    waitFor(() => sink.status.events === events, {
      what: `${events} events; ${sink.lastError?.message}`,
      deadlineMs: 60_000,
    });
  await applied();
  const letters = await Array.fromAsync(listDeadLetters(pool, config, "session"));
  const count = (entries: object) => Object.keys(entries).length;
  await t.step("each that is none is parked with its reason, and the others are rows", async () => {
    assert.equal(letters.length, count(BAD), Deno.inspect(letters.map(({ reason }) => reason)));
    for (const { reason } of letters) assert(reason.length > 5 && reason.length < 2000, reason);
    assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
    assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
  });
  await t.step("odd ones stop nothing", async () => {
    events += await beside(pipeline, ODD);
    await applied();
    const rows = await rowsOf(pipeline);
    for (const [id, document] of await documentsOf(pipeline)) assert.equal(rows.get(id), document);
    assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
  });
  assert.equal(sink.lastError, null);
});

Deno.test("ids of every byte: each has its row, and is found again", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await using sink = consumePeriodically(redis, pool, config, "session");
  const ids = [
    ...Array.from({ length: 255 }, (_, n) => String.fromCodePoint(n + 1)),
    ...Array.from({ length: 255 }, (_, n) => `a${String.fromCodePoint(n + 1)}b`),
    ...[
      "\u00e9",
      "e\u0301",
      "\u{1f600}",
      "\ufffe",
      "\uffff",
      "\u{10ffff}",
      "\u202e",
      "\ufeff",
      "\u2028",
      "I",
      "\u0131",
      "\u00df",
      "SS",
    ],
    ...[
      "null",
      "NULL",
      "{}",
      "[]",
      "{a}",
      "\\N",
      "\\x00",
      "''",
      '"',
      "%",
      "_",
      "*",
      "..",
      "/",
      "session:a",
      "__proto__",
      "constructor",
    ],
    "x".repeat(512),
    "\u00e9".repeat(256),
  ];
  const unique = [...new Set(ids)];
  for (const id of unique) await insertDocument(redis, config, "session", { id }, id);
  await waitFor(() => sink.status.events === unique.length, {
    what: `the events; ${sink.lastError?.message}`,
    deadlineMs: 60_000,
  });
  assert.equal(sink.status.parked, 0);
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
  const { equal, counts } = await verify(redis, pool, config, "session");
  assert.deepEqual([equal, counts.mismatches], [unique.length, 0]);
});
