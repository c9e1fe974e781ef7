/** How messages name a Redis server and what went wrong with it. */

import type { Config } from "../config/load.ts";
import { reasonOf } from "../core/errors.ts";

/** The server's address, without secrets. */
export const addressOf = (config: Config) => `${config.redis.host}:${config.redis.port}`;

/** Says what a connection error means, and what to do about it. */
export function explainRedis(error: unknown): string {
  const reason = reasonOf(error);
  if (/ECONNREFUSED|refused/.test(reason)) {
    return "connection refused: nothing listens there; start Redis, or set redis.host and redis.port";
  }
  if (/WRONGPASS|NOAUTH|AUTH/.test(reason)) {
    return "authentication failed: check redis.username and redis.password";
  }
  if (/loading/i.test(reason)) return "Redis is still loading its data: try again in a moment";
  if (/DB index/.test(reason)) return `${reason}: check redis.db`;
  return reason;
}
