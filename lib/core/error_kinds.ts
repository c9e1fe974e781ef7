/**
 * What an error means for the sink.
 * @module
 */

/**
 * - `transient`: it goes away by itself (a lost connection, a deadlock, a restart): try again
 * - `poison`: a row of the batch cannot be stored
 * - `systemic`: somebody has to mend something; trying again does no harm
 */
export type ErrorKind = "transient" | "poison" | "systemic";

// PostgreSQL's error codes: exact codes win over classes; what is not listed is systemic.
const CODES: [pattern: RegExp, kind: ErrorKind][] = [
  [/^(53100|58030)$/, "systemic"],
  [/^(08...|40001|40P01|53...|55P03|57P0.|57014|25P03)$/, "transient"],
  [/^(22...|23...|44000|54...|P0001)$/, "poison"],
];
const CONNECTION =
  /ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|connection.*(closed|terminated|refused|reset|timeout|timed out)|terminated|timed out|timeout|Stream isn't writeable|Not connected|max retries/i;
const REDIS_LATER =
  /^(LOADING|BUSY|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|READONLY|OOM|MISCONF|NOREPLICAS|UNBLOCKED)\b/;

/** Sorts an error of PostgreSQL, Redis or the network. */
export function kindOf(error: unknown): ErrorKind {
  const { code, message = "" } = error as { code?: string; message?: string };
  if (code !== undefined && /^[0-9A-Z]{5}$/.test(code)) {
    return CODES.find(([pattern]) => pattern.test(code))?.[1] ?? "systemic";
  }
  if (CONNECTION.test(`${code ?? ""} ${message}`) || REDIS_LATER.test(message)) return "transient";
  return "systemic";
}

/** Whether the database gave up because a statement or a transaction took too long: a smaller one may do. */
export function isTooLong(error: unknown): boolean {
  const { code } = error as { code?: string };
  return code === "57014" || code === "25P03";
}
