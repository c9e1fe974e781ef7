/** How messages name a Redis server and what went wrong with it. */

import type { Config } from "../config/load.ts";
import { answerTo, CertificateError, serversObjection, speaksTls } from "../config/tls.ts";
import { connectionErrorKind } from "../core/error_kinds.ts";
import { ConnectionError, reasonOf } from "../core/errors.ts";
import { isReplyError } from "./client.ts";
import { type Node, SentinelError } from "./sentinels.ts";

/**
 * The server's address, without secrets.
 * @param node where that is known: the one that sentinels have named, or the cluster's
 */
export function addressOf({ redis }: Config, node: Node | null = null): string {
  const { host, port, sentinels, sentinel_name, cluster } = redis;
  if (cluster !== null) {
    const list = cluster.map((at) => `${at.host}:${at.port}`).join(", ");
    return node === null ? `the cluster ${list}` : `${node.host}:${node.port}`;
  }
  if (sentinels === null) return `${host}:${port}`;
  if (node !== null) return `${node.host}:${node.port} (${sentinel_name})`;
  const list = sentinels.map((at) => `${at.host}:${at.port}`).join(", ");
  return `${sentinel_name} of the sentinels ${list}`;
}

/** Says what a connection error means, and what to do about it. */
export function explainRedis(error: unknown): string {
  const reason = reasonOf(error);
  if (/ECONNREFUSED|refused/.test(reason)) {
    return "connection refused: nothing listens there; start Redis, or set redis.host and redis.port";
  }
  if (/WRONGPASS|NOAUTH|AUTH/.test(reason)) {
    return "authentication failed: check redis.username and redis.password";
  }
  if (/Stream isn't writeable/.test(reason)) {
    return "the connection was lost: try again in a moment";
  }
  if (/loading/i.test(reason)) return "Redis is still loading its data: try again in a moment";
  if (/DB index/.test(reason)) return `${reason}: check redis.db`;
  const refusal = refusalOf(error);
  return refusal === null ? reason : `${refusal.why} (${reason})`;
}

/** Whether a server does not answer, or is of no use: what it would know is unknown. */
export const isAway = (error: unknown): boolean =>
  error instanceof ConnectionError || connectionErrorKind(error) === "transient";

/** First words of answers by which Redis says that it did nothing. Within a script they come before its first write. */
const REFUSALS = new Map([
  ["OOM", "its memory is full"],
  ["MISCONF", "it cannot save to disk"],
  ["LOADING", "it is still loading its data"],
  [
    "READONLY",
    "it is a replica, which takes no writes; set redis.host and redis.port to its primary, or use redis.sentinels",
  ],
  ["NOREPLICAS", "too few replicas are connected"],
  ["BUSY", "a script keeps it busy"],
  ["CLUSTERDOWN", "its cluster is down"],
  ["MASTERDOWN", "its master is down"],
  ["TRYAGAIN", "its cluster is moving keys"],
  ["ASK", "its cluster is moving keys"],
]);

/** Of a Redis in cluster mode. */
export const CLUSTER =
  "it runs in cluster mode; name some of its nodes in redis.cluster, or use one without cluster-enabled";

/** Answers that Redis gives before it begins with a command; in the middle of a script they prove nothing. */
const NOT_BEGUN: [answer: RegExp, why: string][] = [
  [/^(MOVED|CROSSSLOT) /, CLUSTER],
  [
    /^(NOAUTH|ERR Protocol error: unauthenticated) /,
    "it wants a password now; check redis.username and redis.password",
  ],
  [/^NOPERM /, "the user may not; grant it by ACL SETUSER"],
  [/^ERR unknown command/, "it does not know the command; was it renamed? Rename it back"],
  [
    /^ERR Protocol error: invalid bulk length/,
    "the call has more bytes than its proto-max-bulk-len; raise that, or lower documents.max_bytes",
  ],
];
/** How an error is marked that a script met in its middle. */
export const IN_SCRIPT: RegExp = /script: [0-9a-f]{40}, on @/;

/** How Redis answers a script that may not run one of its commands, or use one of its keys. */
const DENIED_IN_SCRIPT = /^(?:NOPERM |ERR ACL failure in script)/;

/** A refusal of Redis: nothing was done. */
export interface Refusal {
  /** the first word of its answer, such as `OOM` */
  code: string;
  /** what it means, and what to do */
  why: string;
}

/** Why Redis did nothing, by its answer; `null` where that does not prove it. */
export function refusalOf(error: unknown): Refusal | null {
  if (!isReplyError(error)) return null;
  const reason = reasonOf(error).replace(/^-/, "");
  const code = reason.split(" ", 1)[0]!;
  const why = REFUSALS.get(code) ??
    (IN_SCRIPT.test(reason) ? undefined : NOT_BEGUN.find(([answer]) => answer.test(reason))?.[1]);
  return why === undefined ? null : { code, why };
}

/**
 * An error as people are told it: one by which Redis refuses names the server, and what to do.
 * @param address of the server, without secrets
 */
export function withAddress(error: Error, address: string): Error {
  const refusal = refusalOf(error);
  if (refusal === null) {
    // In the middle of a script it proves nothing, and there is something to do all the same.
    if (!isReplyError(error) || !DENIED_IN_SCRIPT.test(error.message)) return error;
    const message = `A script on Redis at ${address} failed: the user may not run all of its ` +
      `commands; grant them by ACL SETUSER (${reasonOf(error)})`;
    return new ConnectionError(message, { cause: error });
  }
  const message = `Redis at ${address} refuses, ${refusal.why} (${reasonOf(error)})`;
  return new ConnectionError(message, { cause: error });
}

const OWN = { certificate: "redis.tls_cert_file", key: "redis.tls_key_file" };

/** Says why no connection was made; where the error does not tell, it asks the server whether it speaks TLS. */
export async function explainConnecting(
  error: unknown,
  config: Config,
  node: Node | null,
): Promise<string> {
  const { tls, sentinels } = config.redis;
  const reason = reasonOf(error);
  // Of the sentinels, and of certificates: they say what to do.
  if (error instanceof CertificateError || error instanceof SentinelError) return reason;
  if (node === null) return reason;
  if (sentinels !== null && /ECONNREFUSED|refused/.test(reason)) {
    return "connection refused: the sentinels name it as the primary, and nothing listens there; a failover may be " +
      "under way, try again";
  }
  const { host, port } = node;
  const objection = serversObjection(reason, config.redis.tls_cert_file !== null, OWN);
  if (objection !== null) return objection;
  const explained = explainRedis(error);
  if (explained !== reason || host.startsWith("/")) return explained;
  if (tls && /^[+-]/.test(await answerTo(host, port, "PING\r\n"))) {
    if (sentinels !== null) {
      return "the server speaks no TLS there: set redis.tls to false, or have the sentinels watch its tls-port";
    }
    return "the server speaks no TLS there: set redis.port to its tls-port; or redis.tls to false, and redis:// " +
      "in REDIS_URL";
  }
  if (!tls && await speaksTls(host, port)) {
    return "the server speaks TLS: set redis.tls to true, or use rediss:// in REDIS_URL";
  }
  return reason;
}
