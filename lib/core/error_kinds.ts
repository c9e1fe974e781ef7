/**
 * What an error means for the sink. A target sorts its own errors; here are those of Redis and the network.
 * @module
 */

/**
 * - `transient`: the server is away, or going: try again
 * - `chance`: it may go away by itself (a deadlock, a lock that is held), or be a row's fault, if it comes again
 *   for that row alone
 * - `document`: a row of the batch cannot be stored
 * - `too_large`: the batch took too long or was too much at once: try again with a smaller one
 * - `configuration`: somebody has to mend something; trying again does no harm. Where other rows go through, it is a
 *   row's fault all the same
 */
export type ErrorKind = "transient" | "chance" | "document" | "too_large" | "configuration";

const CONNECTION =
  /ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|connection.*(closed|terminated|refused|reset|timeout|timed out)|terminated|timed out|timeout|Stream isn't writeable|Not connected|max retries/i;
const REDIS_LATER =
  /^(LOADING|BUSY|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|READONLY|OOM|MISCONF|NOREPLICAS|UNBLOCKED)\b/;

/** Sorts an error of Redis or of the network; one that is neither is `configuration`. */
export function connectionErrorKind(error: unknown): ErrorKind {
  const { code, message = "" } = error as { code?: string; message?: string };
  const passes = CONNECTION.test(`${code ?? ""} ${message}`) || REDIS_LATER.test(message);
  return passes ? "transient" : "configuration";
}

/** Whether what failed may go well by itself when it is tried again. */
export function passes(kind: ErrorKind): boolean {
  return kind === "transient" || kind === "chance" || kind === "too_large";
}
