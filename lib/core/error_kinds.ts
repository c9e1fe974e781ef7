/**
 * What an error means for the sink. A target sorts its own errors; here are those of Redis and the network.
 * @module
 */

import { ConfigError, RepartitioningError } from "./errors.ts";

/**
 * - `transient`: the server is down, or shutting down: try again
 * - `chance`: it may pass by itself (a deadlock, a lock that is held); if it comes back for one row alone, it is
 *   that row's fault
 * - `document`: a row of the batch cannot be stored
 * - `related`: a row cannot be stored beside others that are there or are not yet (a foreign key, a second unique key):
 *   it is the row's fault if its event is refused by itself, at its place in the stream
 * - `too_large`: the batch took too long or was too much at once: try again with a smaller one
 * - `configuration`: somebody has to fix something; trying again does no harm. If other rows go through, it is the
 *   row's fault after all
 */
export type ErrorKind =
  | "transient"
  | "chance"
  | "document"
  | "related"
  | "too_large"
  | "configuration";

const CONNECTION =
  /ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|connection.{0,200}(lost|closed|terminated|refused|reset|timeout|timed out)|terminated|timed out|timeout|Stream isn't writeable|Not connected|max retries/i;
const REDIS_LATER =
  /^(LOADING|BUSY|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|READONLY|OOM|MISCONF|NOREPLICAS|UNBLOCKED)\b/;

/** Sorts an error of Redis or of the network; one that is neither is `configuration`. */
export function connectionErrorKind(error: unknown): ErrorKind {
  if (error instanceof RepartitioningError) return "transient";
  // Whatever words it has: such as what to do about a connection.
  if (error instanceof ConfigError) return "configuration";
  const { code, message = "" } = error as { code?: string; message?: string };
  const passes = CONNECTION.test(`${code ?? ""} ${message}`) || REDIS_LATER.test(message);
  return passes ? "transient" : "configuration";
}

/** Whether it speaks of rows, which may be to blame. */
export const isOfRows = (kind: ErrorKind): boolean => kind === "document" || kind === "related";

/** Whether what failed may succeed when it is simply tried again. */
export function passes(kind: ErrorKind): boolean {
  return kind === "transient" || kind === "chance" || kind === "too_large";
}
