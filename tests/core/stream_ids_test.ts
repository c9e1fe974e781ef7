import fc from "fast-check";
import assert from "node:assert/strict";
import { documentKey, parseConfig, streamIdOf, versionOf } from "writebehind";
import {
  compareStreamIds,
  MAX_SEQUENCE,
  versionHigh,
  versionLow,
} from "writebehind/core/stream_ids.ts";
import { allPartitions, crc16, partitionKeys, partitionOf } from "writebehind/redis/keys.ts";

const config = (partitions: number) => parseConfig(`streams: { partitions: ${partitions} }`, "f");

/** Parts of a stream id that fit a version. */
const fitting = fc.tuple(
  fc.bigInt({ min: 0n, max: 2n ** 43n - 1n }),
  fc.bigInt({ min: 0n, max: 2n ** 20n - 1n }),
);
const anyPart = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const idOf = ([ms, seq]: readonly [bigint, bigint]) => `${ms}-${seq}`;
const sign = (value: number | bigint) => value > 0 ? 1 : value < 0 ? -1 : 0;

Deno.test("a version gives back the stream id it was made from, and fits a BIGINT", () => {
  fc.assert(fc.property(fitting, (parts) => {
    const version = versionOf(idOf(parts));
    assert(version !== null && version >= 0n && version < 2n ** 63n);
    assert.equal(streamIdOf(version), idOf(parts));
  }));
});

Deno.test("a version's halves make the version", () => {
  fc.assert(fc.property(fitting, ([ms, seq]) => {
    const high = BigInt(versionHigh(Number(ms)));
    const low = BigInt(versionLow(Number(ms), Number(seq)));
    assert.equal((high << 32n) | low, versionOf(`${ms}-${seq}`));
  }));
});

Deno.test("append.lua knows how far a version's sequence goes", async () => {
  const script = new URL("../../lib/redis/scripts/append.lua", import.meta.url);
  assert(
    (await Deno.readTextFile(script)).includes(`tonumber(seq) >= ${MAX_SEQUENCE - 1} then`),
  );
});

Deno.test("versions compare as their stream ids do", () => {
  fc.assert(fc.property(fitting, fitting, (a, b) => {
    const difference = versionOf(idOf(a))! - versionOf(idOf(b))!;
    assert.equal(sign(difference), sign(compareStreamIds(idOf(a), idOf(b))));
  }));
});

Deno.test("a stream id that does not fit has no version", () => {
  assert.equal(versionOf(`${2n ** 43n - 1n}-${2n ** 20n - 1n}`), 2n ** 63n - 1n);
  assert.equal(versionOf(`${2n ** 43n}-0`), null);
  assert.equal(versionOf(`1-${2n ** 20n}`), null);
  assert.equal(versionOf("18446744073709551615-18446744073709551615"), null);
});

Deno.test("stream ids of 64-bit parts compare as pairs of numbers", () => {
  const id = fc.tuple(anyPart, anyPart);
  fc.assert(fc.property(id, id, (a, b) => {
    const expected = sign(a[0] - b[0]) || sign(a[1] - b[1]);
    assert.equal(sign(compareStreamIds(idOf(a), idOf(b))), expected);
  }));
  // Doubles cannot tell these apart.
  assert(compareStreamIds("1-9007199254740993", "1-9007199254740992") > 0);
  assert.equal(compareStreamIds("5-1", "5-1"), 0);
});

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
    stream: "stream:session",
    settings: "stream:settings:session",
    lastId: "stream:lastid:stream:session",
    gauges: "metrics:sink:stream:session",
    documentPrefix: "session:",
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
