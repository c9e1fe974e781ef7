/** How a connection fails. */

import assert from "node:assert/strict";
import type { ConfigError, ConnectionError } from "writebehind";

/** A password that no message may tell. */
export const SECRET = "s3cret-word";

/** Sees connecting fail with all the words, soon, and without the password. */
export async function fails(
  connecting: Promise<{ close?: () => Promise<void> }>,
  kind: typeof ConfigError | typeof ConnectionError,
  ...words: string[]
): Promise<void> {
  const began = performance.now();
  await assert.rejects(connecting, (error) => {
    assert(error instanceof kind, `not a ${kind.name}: ${error}`);
    for (const word of words) assert(error.message.includes(word), error.message);
    assert(!Deno.inspect(error).includes(SECRET), "the message tells the password");
    return true;
  });
  assert(performance.now() - began < 5000, "not fast");
}
