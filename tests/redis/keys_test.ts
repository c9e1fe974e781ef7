import fc from "fast-check";
import assert from "node:assert/strict";
import { documentKey, parseConfig } from "writebehind";
import { allPartitions, crc16, partitionKeys, partitionOf } from "writebehind/redis/keys.ts";

const config = (partitions: number) => parseConfig(`streams: { partitions: ${partitions} }`, "f");

Deno.test("crc16 is CRC-16/XMODEM over UTF-8, as in Redis Cluster", () => {
  assert.equal(crc16("123456789"), 0x31c3); // the check value of the Redis Cluster specification
  assert.equal(crc16(""), 0);
  const bytewise = (text: string) => {
    let crc = 0;
    for (const byte of new TextEncoder().encode(text)) {
      crc ^= byte << 8;
      for (let bit = 0; bit < 8; bit++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
    }
    return crc;
  };
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => {
    assert.equal(crc16(text), bytewise(text));
  }));
});

Deno.test("a document has one partition, and all partitions get documents", () => {
  const counts = [0, 0, 0, 0];
  for (let id = 0; id < 4000; id++) counts[partitionOf(`id-${id}`, 4)]!++;
  for (const count of counts) assert(count > 800, `partitions are uneven: ${counts}`);
  assert.equal(partitionOf("anything", 1), 0);
});

Deno.test("with one partition the keys are the original's", () => {
  assert.deepEqual(partitionKeys(config(1), "session", 0), {
    entity: "session",
    partition: 0,
    shape: { partitions: 1, tagged: false },
    stream: "stream:session",
    settings: "stream:settings:session",
    lastId: "stream:lastid:stream:session",
    gauges: "metrics:sink:stream:session",
    documentPrefix: "session:",
    cached: false,
    notes: "stream:notes:session",
    due: "stream:due:session",
    askedPrefix: "stream:asked:session:",
    requestPrefix: "request:session:",
  });
  assert.equal(documentKey(config(1), "session", "a:{b}"), "session:a:{b}");
});

Deno.test("with several partitions all keys of one share a slot, whatever the id is", () => {
  const all = allPartitions(config(4), "session");
  assert.deepEqual(
    all.map(({ stream }) => stream),
    [0, 1, 2, 3].map((p) => `stream:{session-${p}}`),
  );
  fc.assert(fc.property(fc.string({ unit: "binary", minLength: 1 }), (docId) => {
    const partition = crc16(docId) % 4;
    const key = documentKey(config(4), "session", docId);
    assert.equal(key, `session:{session-${partition}}:${docId}`);
    const keys = all[partition]!;
    const tags = [key, keys.stream, keys.settings, keys.lastId, `${keys.requestPrefix}r`]
      .map((name) => name.slice(name.indexOf("{") + 1, name.indexOf("}")));
    assert.deepEqual(new Set(tags), new Set([`session-${partition}`]));
  }));
});
