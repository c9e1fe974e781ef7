import assert from "node:assert/strict";
import { type Migration, refusalOf, schemaOf } from "writebehind/targets/migrations.ts";

const migration = (number: number, of: Migration["of"], more: Partial<Migration> = {}) => ({
  number,
  name: `000${number}_x`,
  of,
  oldest: 0,
  sql: "",
  ...more,
});
const KNOWN: Migration[] = [migration(1, "ours"), migration(2, "entity"), migration(3, "ours")];
const ran = (...numbers: number[]) => numbers.map((number) => ({ number, oldest: 0 }));

Deno.test("how tables are follows from what has run, and from what it says of older versions", () => {
  const waiting = [...KNOWN, migration(4, "entity", { canWait: true })];
  assert.equal(schemaOf(KNOWN, [], false).state, "missing");
  assert.equal(schemaOf(KNOWN, ran(1, 2), true).state, "old");
  assert.equal(schemaOf(waiting, ran(1, 2, 3), true).state, "old, workable");
  assert.equal(schemaOf(waiting, ran(1, 2), true).state, "old");
  assert.equal(schemaOf(KNOWN, ran(1, 2, 3), true).state, "current");
  assert.equal(
    schemaOf(KNOWN, [...ran(1, 2, 3), { number: 4, oldest: 3 }], true).state,
    "newer, workable",
  );
  assert.equal(
    schemaOf(KNOWN, [...ran(1, 2, 3), { number: 5, oldest: 4 }], true).state,
    "newer, refused",
  );
  // What a newer version refuses is not to be made by an older one either.
  assert.equal(schemaOf(KNOWN, [{ number: 5, oldest: 4 }], false).state, "newer, refused");
  // What is missing in between runs still, and in order.
  assert.deepEqual(
    schemaOf(KNOWN, ran(2, 4), true).pending.map(({ number }) => number),
    [1, 3],
  );
});

Deno.test("a refusal is one line that names what to do; where there is none, nothing is said", () => {
  const refusal = (...args: Parameters<typeof schemaOf>) => refusalOf(schemaOf(...args), "x in y");
  assert.equal(
    refusal(KNOWN, [], false),
    "The tables for x in y are not there yet: start a sink once (deno task sink), it makes them",
  );
  assert.equal(
    refusal(KNOWN, ran(1), true),
    "The tables for x in y are older than this version (missing: 0002_x, 0003_x): " +
      "start a sink of this version once (deno task sink), it brings them up to date",
  );
  assert.equal(
    refusal(KNOWN, [{ number: 7, oldest: 6 }], true),
    "The tables for x in y were changed by a newer version of writebehind, and one older than " +
      "migration 6 cannot work with them (this one knows 3): install the newer version",
  );
  assert.equal(refusal(KNOWN, ran(1, 2, 3), true), null);
  assert.equal(refusal(KNOWN, [...ran(1, 2, 3), { number: 4, oldest: 3 }], true), null);
});
