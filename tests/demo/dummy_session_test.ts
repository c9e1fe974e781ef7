import fc from "fast-check";
import assert from "node:assert/strict";
import { generateDummySession, seededRandom } from "writebehind";
import { encodeJson } from "writebehind/core/json/encode.ts";

const sequence = (seed: number, length = 100) => {
  const random = seededRandom(seed);
  return Array.from({ length }, random);
};

Deno.test("the same seed gives the same numbers, another seed others", () => {
  fc.assert(fc.property(fc.maxSafeInteger(), fc.maxSafeInteger(), (a, b) => {
    assert.deepEqual(sequence(a), sequence(a));
    if (a !== b) assert.notDeepEqual(sequence(a), sequence(b));
  }));
});

Deno.test("numbers are from 0 up to 1 and spread evenly, for seeds side by side too", () => {
  for (const seed of [0, 1, 2, -1]) {
    const numbers = sequence(seed, 10_000);
    assert(numbers.every((number) => number >= 0 && number < 1));
    const tenths = new Array(10).fill(0);
    for (const number of numbers) tenths[Math.floor(number * 10)]++;
    assert(tenths.every((count) => count > 880 && count < 1120), `${tenths}`);
  }
  const firsts = Array.from({ length: 1000 }, (_, seed) => sequence(seed, 1)[0]!);
  assert(new Set(firsts.map((number) => Math.floor(number * 1000))).size > 500);
});

Deno.test("sessions come from the generator alone", () => {
  const make = () => {
    const random = seededRandom(7);
    return Array.from({ length: 50 }, () => generateDummySession(random));
  };
  const [first, second] = [make(), make()];
  assert.deepEqual(first, second);
  assert.equal(new Set(first.map(({ session_id }) => session_id)).size, 50);
});

Deno.test("a session has the original's fields, about 350 bytes, and numbers of few digits", () => {
  const random = seededRandom(1);
  let bytes = 0;
  for (let count = 0; count < 500; count++) {
    const session = generateDummySession(random);
    assert.deepEqual(Object.keys(session), [
      ...["user_id", "session_id", "device_logs", "last_activity", "login_time"],
      ...["device_type", "device_model", "geo_location"],
    ]);
    assert.match(session.user_id, /^user_([1-9]\d{0,2}|[1-4]\d{3}|5000)$/);
    assert.match(session.session_id, /^[0-9a-f]{32}$/);
    assert(["android", "ios", "web"].includes(session.device_type));
    assert.match(session.device_model, /^[A-Za-z]+-/);
    assert(session.login_time <= session.last_activity);
    const newest = session.device_logs[0]!.ts;
    assert(session.last_activity <= newest);
    assert(session.device_logs.length <= 5);
    for (const [index, { ts, evt }] of session.device_logs.entries()) {
      assert.equal(ts, newest - 1000 * index);
      assert(["click", "tap", "swipe"].includes(evt));
    }
    const { lat, lon } = session.geo_location;
    for (const number of [lat, lon]) assert.match(`${number}`, /^\d\d(\.\d{1,6})?$/);
    assert(lat >= 12 && lat < 13 && lon >= 77 && lon < 78);
    const { text, spelled } = encodeJson(session, 1000);
    assert.equal(spelled, text);
    bytes += text.length;
  }
  assert(bytes / 500 > 320 && bytes / 500 < 380, `${bytes / 500} bytes`);
});

Deno.test("all 5000 users have sessions, from user_1 on", () => {
  const random = seededRandom(3);
  const users = new Set(
    Array.from({ length: 100_000 }, () => generateDummySession(random).user_id),
  );
  assert.equal(users.size, 5000);
});
