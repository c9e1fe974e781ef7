/**
 * Turns the answers of scripts and of Redis into typed errors that say what to do.
 * @module
 */

import {
  asError,
  BackpressureError,
  ConfigError,
  DocumentError,
  type DocumentErrorCode,
  reasonOf,
  RedisRefusedError,
  UnknownOutcomeError,
  WriteBehindError,
} from "../core/errors.ts";
import { isReplyError } from "../redis/client.ts";
import { refusalOf } from "../redis/explain.ts";
import type { PartitionKeys } from "../redis/keys.ts";

/**
 * The error for a status that a script answered.
 * @param answer.slowest the target that is the furthest behind; "" where there is one only
 */
export function refusal(
  code: string,
  { detail, slowest }: { detail: string; slowest: string },
  docId: string,
  verb: string,
  keys: PartitionKeys,
): BackpressureError | ConfigError | DocumentError | RedisRefusedError {
  const cannot = `Cannot ${verb} ${docId}`;
  if (code === "max_events" || code === "max_bytes") {
    const unit = code === "max_events" ? "events" : "bytes";
    const why = slowest === ""
      ? "the sink is behind: see that it runs"
      : `the target ${slowest} is behind: see that its sink runs`;
    return new BackpressureError(
      code,
      Number(detail),
      `${cannot}: ${keys.stream} holds ${detail} ${unit}, its ${code}; ${why}, write slower, or raise the limit`,
    );
  }
  if (code === "limits") {
    return new ConfigError(
      `${cannot}: ${keys.settings} has no number for ${detail}; set it: HSET ${keys.settings} ${detail} 10000000`,
    );
  }
  if (code === "evicted") {
    return new RedisRefusedError(
      "OOM",
      `${cannot}: Redis has no memory for it, and evicts it as soon as it is read from the target; write slower, or ` +
        "give Redis more memory",
    );
  }
  const reasons: Record<string, string> = {
    exists: "the id exists; use overwrite, or updateDocument",
    missing: "there is no such document; insert it first",
    wrong_type: `the key ${detail} holds another type of value; it is not ours`,
    too_large: `the document would have ${detail} bytes, more than documents.max_bytes`,
    request_conflict: "its requestId was used for another call; use a new one",
    partitions: `${keys.stream} goes with streams.partitions: ${detail}; use that`,
    stream:
      `${detail} has an entry with an id past the year 2248, from another program, or had one; ` +
      `no event can follow it: put the stream right by deno task mend --entity ${keys.entity}`,
    invalid: `RedisJSON refuses it (${detail})`,
    cached:
      `documents of ${keys.entity} are cached, and an evicted one would not be found; set cache.enabled of the ` +
      "entity in the configuration",
    permission: `the Redis user may not run ${detail}; grant it by ACL SETUSER`,
  };
  return new DocumentError(code as DocumentErrorCode, `${cannot}: ${reasons[code] ?? code}`);
}

/**
 * The error to throw for one that came from Redis or from the connection.
 * @param address of the server, without secrets
 */
export function explain(error: unknown, verb: string, docId: string, address: string): unknown {
  if (error instanceof WriteBehindError) return error;
  const reason = reasonOf(error);
  const cannot = `Cannot ${verb} ${docId}`;
  // A script asks first what it may write, so only a read can have been refused here.
  if (/^NOPERM |ACL failure in script/.test(reason)) {
    return new DocumentError("permission", `${cannot}: ${reason}`, { cause: error });
  }
  const refused = refusalOf(error);
  if (refused !== null) {
    const { code, why } = refused;
    const message = `${cannot}: Redis at ${address} refuses, ${why} (${reason})`;
    return /invalid bulk length/.test(reason)
      ? new DocumentError("too_large", message, { cause: error })
      : new RedisRefusedError(code, message, { cause: error });
  }
  // RedisJSON refuses a text before it changes anything; after any other answer we cannot know.
  if (isReplyError(error) && / at line \d+ column \d+/.test(reason)) {
    return new DocumentError("invalid", `${cannot}: ${reason}`, { cause: error });
  }
  // ioredis says this of a call whose connection ended: it speaks of its options.
  const lost = asError(error).name === "MaxRetriesPerRequestError";
  const why = lost ? `the connection to ${address} was lost before the answer` : reason;
  return new UnknownOutcomeError(
    `${verb} of ${docId}: the outcome is unknown, it may be written or not (${why}); ` +
      "call again with the same requestId, or read the document",
    { cause: error },
  );
}
