/**
 * Options of writes, and refusing those that cannot be meant: a caller in JavaScript may give anything.
 * @module
 */

import { type Config, isForwarded } from "../config/load.ts";
import { ConfigError, DocumentError } from "../core/errors.ts";
import type { EventType } from "../core/stream_ids.ts";
import { DURABILITIES, type Durability } from "../redis/durability.ts";

/** Options of every write. */
export interface WriteOptions {
  /** what to wait for; by default what `zero_data_loss` asks */
  durability?: Durability;
  /**
   * A name for this one request. Calling again with it, such as after an {@linkcode UnknownOutcomeError},
   * returns the first receipt and writes no second event, for `documents.request_id_ttl_seconds`.
   */
  requestId?: string | undefined;
}

/** Options of {@linkcode updateDocument}, and of {@linkcode insertDocument}. */
export interface UpdateOptions extends WriteOptions {
  /**
   * After how many seconds the document is deleted, by an ordinary delete event of the sink: a second or so later, or once
   * a sink runs. Left out, an insert has none, also where the document before it had; an update changes nothing of it.
   */
  ttlSeconds?: number | undefined;
}

/** Options of {@linkcode insertDocument}. */
export interface InsertOptions extends UpdateOptions {
  /** replace a document that exists instead of refusing */
  overwrite?: boolean;
  /**
   * that nobody can have a document of this id: a cache does not look whether its target has one.
   * @default whether the id is a generated one
   */
  fresh?: boolean;
}

/** The longest time that is taken: a hundred years. */
const LONGEST_TTL_SECONDS = 100 * 365 * 86_400;

/**
 * @param call.docId one that was checked
 * @throws {DocumentError} `invalid`
 * @throws {ConfigError} where the configuration leaves no event that could delete
 */
export function checkOptions(
  config: Config,
  { verb, entity, docId, options: { ttlSeconds, requestId, durability } }: {
    verb: EventType;
    entity: string;
    docId: string;
    options: UpdateOptions;
  },
): void {
  const cannot = `Cannot ${verb} ${docId}`;
  const refuse = (option: string, expected: string, value: unknown) => {
    const got = typeof value === "string" ? JSON.stringify(value.slice(0, 60)) : String(value);
    throw new DocumentError("invalid", `${cannot}: ${option}: expected ${expected}, got ${got}`);
  };
  if (durability !== undefined && !DURABILITIES.includes(durability)) {
    refuse("durability", DURABILITIES.join(", "), durability);
  }
  // Two that are no Unicode would be the same to Redis.
  const named = typeof requestId === "string" && requestId !== "" && requestId.isWellFormed();
  if (requestId !== undefined && !named) {
    refuse("requestId", "text that is not empty, of whole characters", requestId);
  }
  if (ttlSeconds === undefined) return;
  if (!(typeof ttlSeconds === "number" && ttlSeconds > 0 && ttlSeconds <= LONGEST_TTL_SECONDS)) {
    refuse("ttlSeconds", `a number above 0, at most ${LONGEST_TTL_SECONDS}`, ttlSeconds);
  }
  if (isForwarded(config, entity)) return;
  throw new ConfigError(
    `${cannot}: ttlSeconds deletes by events, and dummy_data.perform_write_behind is false for some; set all three to true`,
  );
}
