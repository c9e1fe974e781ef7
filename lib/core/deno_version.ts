/** Which Deno this needs. */

import { WriteBehindError } from "./errors.ts";

/** The oldest that works: before it, a notebook's kernel hides the errors of cells. */
const OLDEST = [2, 9, 1] as const;

/**
 * Sees that Deno is new enough.
 * @param version such as "2.9.6". @default {the one that runs}
 * @throws {WriteBehindError} where it is older than 2.9.1
 */
export function requireDeno(version: string = Deno.version.deno): void {
  const parts = version.split(".").map((part) => Number.parseInt(part));
  const at = OLDEST.findIndex((wanted, index) => parts[index] !== wanted);
  if (at === -1 || parts[at]! > OLDEST[at]!) return;
  throw new WriteBehindError(
    `Deno ${version} is too old: ${OLDEST.join(".")} or newer is needed; run deno upgrade, or ` +
      "npx -y deno@2.9.6 task in place of deno task",
  );
}
