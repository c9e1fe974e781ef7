/**
 * The original project's session document.
 * @module
 */

import type { Random } from "../core/random.ts";

/** The original's session document. A type alias, so that it is a `JsonObject`. */
export type DummySession = {
  session_id: string;
  user_id: string;
  device_type: string;
  device_model: string;
  app_version: string;
  country: string;
  network: string;
  /** ISO 8601 */
  started_at: string;
  duration_seconds: number;
  events: { name: string; at_seconds: number }[];
};

const DEVICES: readonly (readonly [type: string, models: readonly string[]])[] = [
  ["android", ["Pixel-4", "Pixel-8", "Galaxy-S23", "OnePlus-11"]],
  ["ios", ["iPhone-13", "iPhone-15-Pro", "iPad-Air"]],
  ["web", ["Chrome-126", "Firefox-128", "Safari-17"]],
];
const COUNTRIES = ["BR", "DE", "IN", "JP", "US"];
const NETWORKS = ["wifi", "5g", "4g"];
const EVENT_NAMES = ["login", "view", "search", "add_to_cart", "purchase", "logout"];
/** The day of the dummy sessions: fixed, so that a seed gives the same documents at any time. */
const DAY_BEGINS = Date.UTC(2026, 0, 1);
const DAY_SECONDS = 24 * 60 * 60;

export const below = (random: Random, end: number) => Math.floor(random() * end);
const pick = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)]!;

/** Makes a session document of about 350 bytes of JSON, from the generator alone. */
export function generateDummySession(random: Random = Math.random): DummySession {
  const [device_type, models] = pick(random, DEVICES);
  const duration_seconds = 30 + below(random, 3570);
  const times = Array.from({ length: 3 }, () => below(random, duration_seconds));
  const hex = () => below(random, 2 ** 32).toString(16).padStart(8, "0");
  return {
    session_id: `sess_${hex()}${hex()}`,
    user_id: `user_${1000 + below(random, 9000)}`,
    device_type,
    device_model: pick(random, models),
    app_version: `${1 + below(random, 5)}.${below(random, 20)}.${below(random, 10)}`,
    country: pick(random, COUNTRIES),
    network: pick(random, NETWORKS),
    started_at: new Date(DAY_BEGINS + 1000 * below(random, DAY_SECONDS)).toISOString(),
    duration_seconds,
    events: times.sort((a, b) => a - b).map((at_seconds) => ({
      name: pick(random, EVENT_NAMES),
      at_seconds,
    })),
  };
}
