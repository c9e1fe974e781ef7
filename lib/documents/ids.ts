/**
 * Document ids: making them, and refusing what cannot be one.
 * @module
 */

import { checkArguments } from "../core/arguments.ts";
import { randomBytes } from "node:crypto";
import { DocumentError } from "../core/errors.ts";
import { MAX_ID_BYTES } from "../core/stream_ids.ts";

/**
 * A new document id: readable, ordered by time, unique without asking anyone.
 * @param appId what writes the document, such as `app`
 * @param machineId the machine that writes it; the default does not disclose the host name
 * @returns such as `app-m1-1764000000000-9f2c4a1be07d`
 *
 * @example
 * ```ts
 * import { match } from "node:assert/strict";
 * import { generateDocId } from "writebehind";
 *
 * match(generateDocId("shop", "eu1"), /^shop-eu1-\d{13}-[0-9a-f]{12}$/);
 * ```
 */
export function generateDocId(appId = "app", machineId = "m1"): string {
  checkArguments("generateDocId", { appId, machineId });
  return `${appId}-${machineId}-${Date.now()}-${randomBytes(6).toString("hex")}`;
}

/**
 * Refuses what cannot be an id: 1 to 512 bytes of valid UTF-8 without U+0000.
 * @throws {DocumentError} `invalid`
 */
export function checkId(docId: string): void {
  const why = typeof docId !== "string"
    ? `expected text, got ${typeof docId}`
    : docId === ""
    ? "it is empty"
    : docId.length * 3 > MAX_ID_BYTES && Buffer.byteLength(docId) > MAX_ID_BYTES
    ? `it has ${Buffer.byteLength(docId)} bytes, more than ${MAX_ID_BYTES}`
    : docId.includes("\0")
    ? "it has U+0000"
    : docId.isWellFormed()
    ? null
    : "it has a lone surrogate";
  if (why === null) return;
  const shown = typeof docId === "string" ? JSON.stringify(docId.slice(0, 60)) : String(docId);
  throw new DocumentError("invalid", `Cannot use the document id ${shown}: ${why}`);
}
