/**
 * Every error that this library throws on purpose. Callers decide by class and by `code`; the message
 * is for people and holds the cause's text too, since some displays drop `cause`.
 * @module
 */

import type { Receipt } from "./receipt.ts";

/** The base class: catches everything thrown on purpose by this library. */
export class WriteBehindError extends Error {
  /** the name of the class */
  override name: string = this.constructor.name;
}

/** An argument of a call is of no kind that it takes; the message names call and argument. Nothing was done. */
export class ArgumentError extends WriteBehindError {}

/** The configuration file is unusable; the message lists every problem with its file, line and key. */
export class ConfigError extends WriteBehindError {}

/** A server could not be reached, refused us, or cannot do what the pipeline needs. */
export class ConnectionError extends WriteBehindError {}

/** Why a document call was refused. */
export type DocumentErrorCode =
  /** insert of an id that exists, without `overwrite` */
  | "exists"
  /** update or delete of an id that does not exist */
  | "missing"
  /** the key of the document, or of its stream, holds another type of value */
  | "wrong_type"
  /** an id or a document that Redis or the target cannot hold without changing it */
  | "invalid"
  /** the document is larger than `documents.max_bytes` */
  | "too_large"
  /** the same `requestId` came with another call */
  | "request_conflict"
  /** the stream has an entry whose id no write can follow: `deno task mend` removes it */
  | "stream"
  /** the entity has another number of partitions */
  | "partitions"
  /** the entity has a cache, and the configuration does not say so */
  | "cached"
  /** the Redis user may not run a command that the call needs */
  | "permission";

/** A document call was refused: neither the document nor an event was written. */
export class DocumentError extends WriteBehindError {
  /**
   * Made by the library, for callers to catch.
   * @param code why it was refused
   * @param message for people: what was asked, why it is refused, what to do
   * @param options the `cause`, where there is one
   */
  constructor(readonly code: DocumentErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** Too much is waiting already: nothing was written, and calling again later is safe. */
export class BackpressureError extends WriteBehindError {
  /**
   * Made by the library, for callers to catch.
   * @param limit which limit was reached: `max_events`, `max_bytes` or `max_in_flight`
   * @param current how much there is now, in events, bytes or calls
   * @param message for people
   */
  constructor(
    readonly limit: "max_events" | "max_bytes" | "max_in_flight",
    readonly current: number,
    message: string,
  ) {
    super(message);
  }
}

/**
 * The entity is being repartitioned, or a call waited a minute for the end of that: nothing was written, and calling again
 * later is safe.
 */
export class RepartitioningError extends WriteBehindError {}

/** Redis refuses writes in its present state (OOM, MISCONF, LOADING, READONLY …): nothing was written. */
export class RedisRefusedError extends WriteBehindError {
  /**
   * Made by the library, for callers to catch.
   * @param code the first word of Redis's error, such as `OOM`
   * @param message for people
   * @param options the `cause`: Redis's error
   */
  constructor(readonly code: string, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/**
 * The connection was lost, or timed out, before the reply came: the write may or may not have
 * happened. Calling again is safe only with a `requestId`.
 */
export class UnknownOutcomeError extends WriteBehindError {}

/** Written, but the durability that was asked for was not confirmed. */
export class DurabilityError extends WriteBehindError {
  /**
   * Made by the library, for callers to catch.
   * @param receipt what was written
   * @param message for people
   * @param options the `cause`, where there is one
   */
  constructor(readonly receipt: Receipt, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** The text of anything thrown, for messages, counters and log streams. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === "") {
    return error.errors.map(reasonOf).join("; ");
  }
  return error instanceof Error ? error.message : String(error);
}

/** Anything thrown, as an `Error`. */
export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}
