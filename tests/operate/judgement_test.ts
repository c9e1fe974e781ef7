/** What is wrong with a partition, by what was seen of it. */

import assert from "node:assert/strict";
import { parseConfig } from "writebehind";
import { type Both, judge, type Place } from "writebehind/operate/judgement.ts";
import { partitionsOf } from "writebehind/redis/keys.ts";

const config = parseConfig("", "test.yaml");
const [keys] = partitionsOf(config, "session", "postgresql");
const place: Place = { config, keys: keys!, name: "postgresql", isMoving: false };

const WELL: Both = {
  standing: {
    offset: "5-0",
    events: 5,
    witness: "5-0",
    wentBack: 0,
    wentBackAt: null,
    owner: "one",
    live: true,
    leaseSeconds: 8,
    parked: 0,
    waitsFor: null,
  },
  lag: { events: 0, seconds: 0, entriesRead: 0, certain: true },
  assessment: null,
  registrations: [],
  state: "active",
  hasGoneBack: false,
  lastId: "5-0",
  clockMs: 5000,
  namesake: null,
  rebuiltFrom: null,
};

const judged = (both: Partial<Both>, at: Partial<Place> = {}, failures = 0) =>
  judge({ ...place, ...at }, { both: { ...WELL, ...both }, cache: null, failures });

Deno.test("a partition that is well has nothing wrong; nor has one of which nothing is known", () => {
  const nothing = { stuck: [], doubts: [], warnings: [] };
  assert.deepEqual(judged({}), nothing);
  assert.deepEqual(judge(place, { both: null, cache: null, failures: 0 }), nothing);
});

Deno.test("events that wait are stuck once nobody has owned their partition for a lease", () => {
  const { lease_seconds } = config.write_behind;
  const waiting = (seconds: number, leaseSeconds: number | null, live = false) =>
    judged({
      lag: { events: 1, seconds, entriesRead: 0, certain: true },
      standing: { ...WELL.standing, live, leaseSeconds },
    }).stuck.length;
  const [short, long] = [lease_seconds / 2, 2 * lease_seconds];
  assert.equal(waiting(long, -long), 1);
  assert.equal(waiting(long, null), 1, "given back");
  assert.equal(waiting(short, -long), 0, "they came just now");
  assert.equal(waiting(long, -short), 0, "a sink may take it yet");
  assert.equal(waiting(long, null, true), 0, "it is owned, by a lease that ends with its process");
});

Deno.test("a target that is not active says what to do; what a repartition has paused does not", () => {
  assert.deepEqual(judged({ state: "paused" }).warnings, [
    "the target is paused: run deno task target resume postgresql",
  ]);
  assert.deepEqual(judged({ state: "paused" }, { isMoving: true }).warnings, []);
  assert.deepEqual(judged({ state: "removed", namesake: "no matter" }).stuck, [
    "the target is removed: run deno task target add postgresql",
  ]);
  assert.deepEqual(judged({ namesake: "the same database" }).stuck, ["the same database"]);
});

Deno.test("ids past all versions block, and those ahead of the clock are told", () => {
  const far = judged({ lastId: "9999999999999-0" });
  assert.match(far.stuck[0]!, /past the year 2248, .*deno task mend --entity session/);
  assert.deepEqual(far.warnings, []);
  const ahead = judged({ lastId: "125000-0" });
  assert.match(ahead.warnings[0]!, /^the stream's ids are 120 s ahead of the clock of Redis/);
  assert.deepEqual(judged({ lastId: "60000-0" }).warnings, []);
});

Deno.test("a sink that fails again and again is stuck, whatever else is seen", () => {
  const { max_retry_attempts } = config.write_behind;
  assert.deepEqual(judged({}, {}, max_retry_attempts - 1).stuck, []);
  assert.deepEqual(judge(place, { both: null, cache: null, failures: max_retry_attempts }).stuck, [
    `${max_retry_attempts} failures in a row`,
  ]);
});
