/**
 * The refusal of a document that cannot be stored as it is.
 * @module
 */

import { DocumentError } from "../errors.ts";

/** A step of a path: a key, or an index of an array. */
export type Step = string | number;

/** The most steps that a path shows, and the most characters. */
export const SHOWN_STEPS = 40;
const SHOWN_CHARACTERS = 200;

/** @param path leads from the document to the value, or to the key, that is refused */
export const invalid = (what: string, path: readonly Step[], advice: string, cause?: unknown) =>
  new DocumentError(
    "invalid",
    `Cannot store the document: ${what} at ${shown(path)}; ${advice}`,
    cause === undefined ? undefined : { cause },
  );

/** A path for people: `$.coordinates[3][0]`, cut off where it is long. */
function shown(path: readonly Step[]): string {
  const text = "$" + path.slice(0, SHOWN_STEPS).map(shownStep).join("");
  if (path.length <= SHOWN_STEPS && text.length <= SHOWN_CHARACTERS) return text;
  return `${text.slice(0, SHOWN_CHARACTERS).toWellFormed()}…`;
}

function shownStep(step: Step): string {
  if (typeof step === "number") return `[${step}]`;
  const key = step.slice(0, SHOWN_CHARACTERS);
  return /^[A-Za-z_]\w*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
}
