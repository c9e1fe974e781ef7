/**
 * Sends commands to RediSearch, and turns its refusals into typed errors.
 * @module
 */

import { ConnectionError, reasonOf, WriteBehindError } from "../core/errors.ts";
import { isReplyError } from "../redis/client.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { withAddress } from "../redis/explain.ts";

/** Why an index or a search was refused. */
export type SearchErrorCode =
  /** there is no such index yet */
  | "no_index"
  /** the index has no such field, or one of another type */
  | "unknown_field"
  /** a filter, limit or offset that is not valid */
  | "invalid"
  /** the index was not complete by the deadline */
  | "indexing"
  /** in a cluster: not all partitions can answer now, so documents would be missing */
  | "incomplete"
  /** Redis refuses the command, such as for the syntax of a raw query */
  | "refused";

/** A search failed, or creating its index. */
export class SearchError extends WriteBehindError {
  /**
   * Made by the library, for callers to catch.
   * @param code why it failed
   * @param message for people
   * @param options the `cause`: Redis's error
   */
  constructor(readonly code: SearchErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** Sends one command; errors come back typed. */
export async function ask(
  redis: RedisConnection,
  index: string,
  [command = "", ...args]: string[],
): Promise<unknown> {
  try {
    return await redis.call(command, args);
  } catch (cause) {
    const reason = reasonOf(cause);
    if (!isReplyError(cause)) {
      throw new ConnectionError(`Cannot search ${index}: no answer from Redis (${reason})`, {
        cause,
      });
    }
    // RediSearch 2.8, 2.10 and 8 word it differently.
    if (/no such index|unknown index name|index.{0,100}not.?found/i.test(reason)) {
      throw new SearchError(
        "no_index",
        `Cannot search ${index}: there is no such index; make it by createSearchIndex`,
        { cause },
      );
    }
    if (/unknown (field|property)/i.test(reason)) {
      throw new SearchError("unknown_field", `Cannot search ${index}: ${reason}`, { cause });
    }
    throw new SearchError(
      "refused",
      `Cannot search ${index}: Redis refuses ${command}: ${
        reasonOf(withAddress(cause, redis.address))
      }`,
      { cause },
    );
  }
}
