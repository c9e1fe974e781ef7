/**
 * The list of what happened, and its words.
 * @module
 */

import type { SinkEvent } from "./sinks.ts";

/** How an entry looks: something broke, was mended, is to be known, or is wrong. */
export type Tone = "break" | "mend" | "note" | "wrong";

/** One entry of the list. */
export interface Happening {
  /** counts up */
  id: number;
  /** in ms since 1970 */
  at: number;
  text: string;
  tone: Tone;
  /** what stands beside its line in the chart; null for no line */
  mark: string | null;
}

const MAX_ENTRIES = 200;
const MAX_TEXT = 240;

/** The list, the newest last. */
export class Happenings {
  #entries: Happening[] = [];
  #made = 0;
  readonly #onNew: (entry: Happening) => void;

  constructor(onNew: (entry: Happening) => void) {
    this.#onNew = onNew;
  }

  get entries(): readonly Happening[] {
    return this.#entries;
  }

  add(tone: Tone, text: string, mark: string | null = null): void {
    const short = text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT - 1)}…` : text;
    const entry = { id: ++this.#made, at: Date.now(), text: short, tone, mark };
    this.#entries.push(entry);
    if (this.#entries.length > MAX_ENTRIES) this.#entries.shift();
    this.#onNew(entry);
  }

  clear(): void {
    this.#entries = [];
  }
}

/** Events of a sink that need no line: they are told otherwise, or are for its log. */
const SILENT = new Set(["released", "countersNotSent", "halved", "leaseNotRenewed", "claimed"]);

/** Events that need a line only where the sink owns something. */
const OF_OWNERS = new Set(["failed", "connectionLost", "reconnected"]);

/** The line for a sink's event; null where it needs none. */
export function lineOf(
  { sink, event, level, message, was, now, error: failed, reason, failures, documentId }: SinkEvent,
): { tone: Tone; text: string; mark: string | null } | null {
  const who = `sink ${sink}`;
  const error = String(failed ?? reason ?? "");
  // One that stands by has the same troubles as the owner, and nobody depends on it.
  if (SILENT.has(event) || was === "standby" && OF_OWNERS.has(event)) return null;
  switch (event) {
    case "standby":
      return was === "starting" && now === "standby"
        ? { tone: "note", text: `${who} stands by`, mark: null }
        : null;
    case "failed":
      // It goes on trying: the first of a row is enough, and one of several partitions.
      return failures === 1 && was !== "retrying"
        ? { tone: "wrong", text: `${who} cannot apply, and tries again: ${error}`, mark: null }
        : null;
    case "recovered":
      return now === "retrying" ? null : { tone: "mend", text: `${who} applies again`, mark: null };
    case "connectionLost":
      return { tone: "wrong", text: `${who} lost Redis: ${error}`, mark: null };
    case "reconnected":
      return { tone: "mend", text: `${who} has Redis again`, mark: null };
    case "parked":
      return {
        tone: "wrong",
        text: `document ${documentId} was parked: ${error}`,
        mark: "parked",
      };
    case "wentBack":
      return { tone: "wrong", text: `${who}: ${unquoted(message)}`, mark: "went back" };
    default: {
      const tone = level === "INFO" ? "note" : "wrong";
      return { tone, text: `${who}: ${unquoted(message)}`, mark: null };
    }
  }
}

/** The log puts quotes around every value. */
function unquoted(message: string): string {
  return message.replaceAll('"', "");
}
