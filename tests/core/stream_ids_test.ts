import fc from "fast-check";
import assert from "node:assert/strict";
import { streamIdOf, versionOf } from "writebehind";
import {
  compareStreamIds,
  MAX_SEQUENCE,
  nextMillisecond,
  partsOf,
  versionHigh,
  versionLow,
} from "writebehind/core/stream_ids.ts";

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

Deno.test("a stream id has two parts, and all ids of the next millisecond come after it", () => {
  assert.deepEqual(partsOf("1764000000000-12"), { ms: 1764000000000, seq: 12 });
  assert.deepEqual(partsOf("0-0"), { ms: 0, seq: 0 });
  assert.equal(nextMillisecond("1764000000000-12"), "1764000000001-0");
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
