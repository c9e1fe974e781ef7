/**
 * Errors of Kafka, and what they mean for the sink. Names: the Kafka protocol's table of error codes.
 * @module
 */

import { connectionErrorKind, type ErrorKind } from "../../core/error_kinds.ts";
import { ConnectionError, WriteBehindError } from "../../core/errors.ts";

/** A document that cannot be stored: it is no JSON text, or the topic takes no message that large. */
export class RefusedDocumentError extends WriteBehindError {
  constructor(readonly sqlstate: string, reason: string) {
    super(reason);
  }
}

/** A transaction stays open, so that what comes behind it cannot be read. */
export class OpenTransactionError extends WriteBehindError {}

/** Another producer has taken the transactional id of this one. */
export class FencedError extends WriteBehindError {}

/** The parts of an error of the client that are looked at; it nests those of several answers. */
export interface ClientError extends Error {
  code?: string;
  apiId?: string;
  serverErrorMessage?: string | null;
  response?: unknown;
  errors?: unknown[];
}

/** The error and all that it holds. */
export function* nested(error: unknown): Generator<ClientError> {
  if (!(error instanceof Error)) return;
  yield error as ClientError;
  for (const inner of (error as ClientError).errors ?? []) yield* nested(inner);
  yield* nested(error.cause);
}

/** The names of the errors that the broker has answered with. */
export function answersOf(error: unknown): string[] {
  return [...nested(error)].flatMap(({ apiId }) => apiId ?? []);
}

/** Whether the broker has answered with one of these. */
export function isAnswer(error: unknown, ...names: string[]): boolean {
  return answersOf(error).some((name) => names.includes(name));
}

/** Whether the connection has failed, or nothing was answered in time. */
export function isOfTheNetwork(error: unknown): boolean {
  return [...nested(error)].some(({ code }) =>
    code === "PLT_KFK_NETWORK" || code === "PLT_KFK_TIMEOUT"
  );
}

/** What a producer is told whose transactional id another has taken, or whose transaction was ended for it. */
export const FENCED = [
  "INVALID_PRODUCER_EPOCH",
  "PRODUCER_FENCED",
  "INVALID_TXN_STATE",
  "INVALID_PRODUCER_ID_MAPPING",
  "TRANSACTION_ABORTABLE",
] as const;

/** The coordinator of a group or of a transaction has moved, or is not ready. */
export const ELSEWHERE = [
  "NOT_COORDINATOR",
  "COORDINATOR_NOT_AVAILABLE",
  "COORDINATOR_LOAD_IN_PROGRESS",
] as const;

/** A topic is about to be there, or its leader is about to change. */
export const UNSETTLED = [
  "UNKNOWN_TOPIC_OR_PARTITION",
  "UNKNOWN_TOPIC_ID",
  "LEADER_NOT_AVAILABLE",
  "NOT_LEADER_OR_FOLLOWER",
] as const;

const KINDS: Record<string, ErrorKind> = {
  MESSAGE_TOO_LARGE: "too_large",
  RECORD_LIST_TOO_LARGE: "too_large",
  INVALID_RECORD: "document",
  INVALID_TIMESTAMP: "document",
};

/** Passes when the brokers are well again. */
const LATER = [
  ...ELSEWHERE,
  ...UNSETTLED,
  ...FENCED,
  "BROKER_NOT_AVAILABLE",
  "CONCURRENT_TRANSACTIONS",
  "KAFKA_STORAGE_ERROR",
  "NETWORK_EXCEPTION",
  "NOT_CONTROLLER",
  "NOT_ENOUGH_REPLICAS",
  "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
  "OUT_OF_ORDER_SEQUENCE_NUMBER",
  "REBALANCE_IN_PROGRESS",
  "REPLICA_NOT_AVAILABLE",
  "REQUEST_TIMED_OUT",
  "UNKNOWN_PRODUCER_ID",
  "UNKNOWN_SERVER_ERROR",
];

/** What an error of the broker, or of the way to it, means for the sink. */
export function kafkaErrorKind(error: unknown): ErrorKind {
  if (error instanceof RefusedDocumentError) return "document";
  if (error instanceof FencedError || error instanceof OpenTransactionError) return "transient";
  // This is our explanation of an error: its cause has the name.
  if (error instanceof ConnectionError && error.cause) return kafkaErrorKind(error.cause);
  const answers = answersOf(error);
  for (const answer of answers) if (KINDS[answer]) return KINDS[answer];
  if (answers.length > 0) {
    return answers.every((answer) => LATER.includes(answer)) ? "transient" : "configuration";
  }
  return isOfTheNetwork(error) && !isOfTheLogin(error) ? "transient" : connectionErrorKind(error);
}

/** What to do where an answer does not pass by itself, or not soon. */
const REMEDIES: Record<string, string> = {
  TOPIC_AUTHORIZATION_FAILED:
    "allow the user Read, Write, Describe, DescribeConfigs and Create on the topics of this target",
  GROUP_AUTHORIZATION_FAILED: "allow the user Read and Describe on the groups of this target",
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    "allow the user Write and Describe on the transactional ids of this target",
  CLUSTER_AUTHORIZATION_FAILED: "allow the user Create, or make the topics for it",
  INVALID_REPLICATION_FACTOR: "set the brokers' default.replication.factor to what they can hold",
  KAFKA_STORAGE_ERROR: "a broker's disk is full or has failed: see its log",
  NOT_ENOUGH_REPLICAS: "start brokers, until as many are in sync as min.insync.replicas says",
  POLICY_VIOLATION: "make the topic yourself, as the brokers' policy wants it",
  UNSUPPORTED_VERSION: "Kafka 3.2 is needed, or newer",
};

/** What the brokers, or the way to them, have answered, in one line with what to do. */
class KafkaError extends WriteBehindError {}

/** Works with the client, whose errors say less. */
export async function explained<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof WriteBehindError) throw error;
    const remedy = REMEDIES[answersOf(error)[0] ?? ""];
    const told = `Kafka: ${reasonIn(error)}${remedy === undefined ? "" : `; ${remedy}`}`;
    throw new KafkaError(told, { cause: error });
  }
}

/** Whether the broker has refused user and password. */
export function isOfTheLogin(error: unknown): boolean {
  return [...nested(error)].some(({ code }) => code === "PLT_KFK_AUTHENTICATION");
}

/** Whether no connection by TLS could be made. */
export function isOfTls(error: unknown): boolean {
  return [...nested(error)].some(({ message }) =>
    /^TLS handshake failed|certificate/i.test(message)
  );
}

/** What happened, for people: of an error that holds others, the innermost ones. */
function reasonIn(error: unknown): string {
  const all = [...nested(error)];
  const inner = all.filter((one) => !one.errors?.length && !(one.cause instanceof Error));
  const texts = inner.map(({ apiId, message, serverErrorMessage }) =>
    apiId === undefined ? message : `${apiId}: ${serverErrorMessage || message}`
  );
  return [...new Set(texts)].join("; ") || String(error);
}
