/**
 * The settings of topics: those that they are made with, and what is wrong with those that are there.
 * @module
 */

/** Settings of a topic, by their names. */
export type Settings = Readonly<Record<string, string>>;

/** The largest request that brokers take, if their settings are left as they are, is a little larger. */
const LARGEST_PARKED_BYTES = 100_000_000;
/** What a document's message takes besides the document: its id and its headers. */
const BESIDES_BYTES = 2 ** 16;
/** How long each event is kept, at least, where each is a message of its own, in ms: a week. */
const KEPT_MS = 7 * 24 * 3_600_000;

/** Written again and again, and read whole by each claim: so it is compacted soon. */
export const OFFSET_SETTINGS: Settings = {
  "cleanup.policy": "compact",
  "segment.bytes": String(2 ** 23),
  "segment.ms": String(3_600_000),
  "min.cleanable.dirty.ratio": "0.1",
};

export const DEAD_LETTER_SETTINGS: Settings = {
  "cleanup.policy": "compact",
  "max.message.bytes": String(LARGEST_PARKED_BYTES),
};

/** How large messages of an entity may be, in bytes. @param maxBytes of a document */
const largestMessage = (maxBytes: number) =>
  Math.min(LARGEST_PARKED_BYTES, maxBytes + BESIDES_BYTES);

/**
 * @param maxBytes of a document, as the application may write it
 * @param everyEvent whether each event is a message of its own, which consumers need time to read
 */
export const entitySettings = (maxBytes: number, everyEvent: boolean): Settings => ({
  "cleanup.policy": "compact",
  "max.message.bytes": String(largestMessage(maxBytes)),
  ...(everyEvent ? { "min.compaction.lag.ms": String(KEPT_MS) } : {}),
});

/** The settings that are looked at. */
export const LOOKED_AT = [
  "cleanup.policy",
  "retention.ms",
  "retention.bytes",
  "min.compaction.lag.ms",
  "max.message.bytes",
];

/** Why a topic would lose what it must keep, for people; `null` where it keeps it. */
export function losing(topic: string, settings: Settings): string | null {
  if (!settings["cleanup.policy"]?.split(",").includes("delete")) return null;
  const limits = ["retention.ms", "retention.bytes"].filter((name) => Number(settings[name]) >= 0);
  if (limits.length === 0) return null;
  const told = ["cleanup.policy", ...limits].map((name) => `${name}=${settings[name]}`).join(", ");
  return `the topic ${topic} would lose what it must keep (${told}): set its cleanup.policy to compact`;
}

/** Why a topic of each event would lose some before they are read, for people; `null` where it keeps them. */
export function losingEvents(topic: string, settings: Settings): string | null {
  if (settings["cleanup.policy"] === "delete") return null;
  if (settings["min.compaction.lag.ms"] !== "0") return null;
  return `the topic ${topic} may lose events before they are read (every_event, and min.compaction.lag.ms=0): set its ` +
    "min.compaction.lag.ms to as long as consumers may take";
}

/** Why documents could not be parked in a topic, for people; `null` where they can. @param maxBytes of a document */
export function tooSmall(topic: string, settings: Settings, maxBytes: number): string | null {
  const needed = largestMessage(maxBytes);
  const has = settings["max.message.bytes"];
  if (has === undefined || Number(has) >= needed) return null;
  return `the topic ${topic} could not take a document that is to be parked (max.message.bytes=${has}): set its ` +
    `max.message.bytes to ${needed}, or documents.max_bytes lower`;
}
