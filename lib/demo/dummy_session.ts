/**
 * The original project's session document, and its update.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { below, type Random } from "../core/random.ts";

/** The original's session document. A type alias, so that it is a `JsonObject`. Times are in ms. */
export type DummySession = {
  /** `user_1` to `user_5000` */
  user_id: string;
  /** 32 hexadecimal digits */
  session_id: string;
  /** What the device reported, the newest first. */
  device_logs: { ts: number; evt: string }[];
  /** in ms since 1970 */
  last_activity: number;
  /** in ms since 1970 */
  login_time: number;
  /** `android`, `ios` or `web` */
  device_type: string;
  /** such as `Pixel-4` */
  device_model: string;
  /** In degrees, with at most six decimals: RedisJSON misreads some longer numbers. */
  geo_location: { lat: number; lon: number };
};

const USERS = 5000;
const DEVICES: readonly (readonly [type: string, models: readonly string[]])[] = [
  ["android", ["Pixel-4", "Galaxy-S10", "OnePlus-8"]],
  ["ios", ["iPhone-12", "iPhone-15-Pro", "iPad-Air"]],
  ["web", ["Chrome-126", "Firefox-128", "Safari-17"]],
];
const EVENTS = ["click", "tap", "swipe"];
const MOST_LOGS = 5;
const MOST_IDLE_MS = 5 * 60 * 1000;
const LONGEST_SESSION_MS = 60 * 60 * 1000;
/** The day of the dummy sessions: fixed, so that a seed gives the same documents at any time. */
const DAY_BEGINS = Date.UTC(2026, 0, 1);
const DAY_MS = 24 * 60 * 60 * 1000;
/** The south-west corner of the square degree around Bengaluru where all sessions are, in degrees. */
const CORNER = { lat: 12, lon: 77 };
const MICRODEGREES = 1_000_000;

const pick = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)]!;
const hexDigits = (random: Random) => below(random, 2 ** 32).toString(16).padStart(8, "0");
const degrees = (random: Random, from: number) =>
  (from * MICRODEGREES + below(random, MICRODEGREES)) / MICRODEGREES;

/**
 * Makes a session document of about 350 bytes of JSON, from the generator alone.
 * @param random gives the same documents again where it is seeded alike
 *
 * @example
 * ```ts
 * import { deepEqual, match } from "node:assert/strict";
 * import { generateDummySession, seededRandom } from "writebehind";
 *
 * const session = generateDummySession(seededRandom(1));
 * match(session.user_id, /^user_\d+$/);
 * deepEqual(generateDummySession(seededRandom(1)), session);
 * ```
 */
export function generateDummySession(random: Random = Math.random): DummySession {
  checkArguments("generateDummySession", { random });
  const now = DAY_BEGINS + below(random, DAY_MS);
  const last_activity = now - below(random, MOST_IDLE_MS);
  const [device_type, models] = pick(random, DEVICES);
  return {
    user_id: `user_${1 + below(random, USERS)}`,
    session_id: Array.from({ length: 4 }, () => hexDigits(random)).join(""),
    device_logs: Array.from({ length: 1 + below(random, MOST_LOGS) }, (_, second) => ({
      ts: now - 1000 * second,
      evt: pick(random, EVENTS),
    })),
    last_activity,
    login_time: last_activity - below(random, LONGEST_SESSION_MS),
    device_type,
    device_model: pick(random, models),
    geo_location: { lat: degrees(random, CORNER.lat), lon: degrees(random, CORNER.lon) },
  };
}

/** Makes the original's update of a session, a heartbeat on the day after, from the generator alone. */
export function generateDummyPatch(
  random: Random = Math.random,
): Pick<DummySession, "last_activity" | "device_logs"> {
  const now = DAY_BEGINS + DAY_MS + below(random, DAY_MS);
  return { last_activity: now, device_logs: [{ ts: now, evt: "heartbeat" }] };
}
