/**
 * The refusal of a document that cannot be stored as it is.
 * @module
 */

import { DocumentError } from "../errors.ts";

export const invalid = (what: string, path: string, advice: string) =>
  new DocumentError("invalid", `Cannot store the document: ${what} at ${path}; ${advice}`);
