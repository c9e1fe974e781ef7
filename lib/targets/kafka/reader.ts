/**
 * Reading topics: what was committed, as far as it was written when the reading began.
 * @module
 */

import { Buffer } from "node:buffer";
import { fetchV12 } from "@platformatic/kafka";
import { delay } from "../../core/delay.ts";
import { READ_BYTES } from "../target.ts";
import { byLeader, type Client, type Topic } from "./client.ts";
import { OpenTransactionError } from "./errors.ts";
import type { ReadMessage } from "./messages.ts";

/** How long an open transaction of another sink is waited for, in ms. */
const PATIENCE_MS = 10_000;
/** How long a broker waits for more, in ms. */
const FETCH_WAIT_MS = 20;
const COMMITTED = 1;
/** A broker may answer with nothing, though it says that there is something, while a transaction ends. */
const MOST_EMPTY = 5;

type Partition = Awaited<
  ReturnType<typeof fetchV12.api.async>
>["responses"][number]["partitions"][number];
type Batch = NonNullable<Partition["records"]>[number];

/** Bits of a batch's attributes. */
const TRANSACTIONAL = 16;
const CONTROL = 32;
/** Where the kind of a control message stands in its key, and the kind that says that a transaction was taken back. */
const KIND_AT = 2;
const ABORT = 0;

/**
 * Reads partitions from one offset up to another. Changes `from` to where it has come.
 * @param partitions which of them
 * @param patienceMs how long open transactions are waited for
 * @throws {OpenTransactionError} where one stays open for longer
 */
export async function* read(
  client: Client,
  topic: Topic,
  from: bigint[],
  until: bigint[],
  partitions: number[] = [...until.keys()],
  patienceMs: number = PATIENCE_MS,
): AsyncGenerator<ReadMessage[]> {
  let deadline = performance.now() + patienceMs;
  let empty = 0;
  for (;;) {
    const left = partitions.filter((partition) => from[partition]! < until[partition]!);
    if (left.length === 0) return;
    let [moved, readable] = [false, true];
    for (const [node, led] of byLeader(topic.leaders, left)) {
      const { responses } = await client.at(
        node,
        fetchV12.api,
        FETCH_WAIT_MS,
        1,
        READ_BYTES,
        COMMITTED,
        0,
        -1,
        [{
          topicId: topic.name,
          partitions: led.map((partition) => ({
            partition,
            currentLeaderEpoch: -1,
            fetchOffset: from[partition]!,
            lastFetchedEpoch: -1,
            partitionMaxBytes: READ_BYTES,
          })),
        }],
        [],
        "",
      );
      for (const found of responses.flatMap(({ partitions }) => partitions)) {
        const partition = found.partitionIndex;
        const before = from[partition]!;
        const messages = committedIn(found, from, until[partition]!);
        readable &&= found.lastStableOffset >= until[partition]!;
        moved ||= from[partition] !== before;
        if (messages.length > 0) yield messages;
      }
    }
    empty = moved || !readable ? 0 : empty + 1;
    // What is left was compacted away.
    if (empty === MOST_EMPTY) { for (const partition of left) from[partition] = until[partition]!; }
    else if (moved) deadline = performance.now() + patienceMs;
    else if (performance.now() > deadline) {
      throw new OpenTransactionError(
        `a transaction on the topic ${topic.name} stays open: what comes behind it cannot be read yet`,
      );
    } else await delay(2);
  }
}

/** The messages of a fetched partition that were committed, and moves `from` behind them. */
function committedIn(
  { partitionIndex: partition, abortedTransactions, records }: Partition,
  from: bigint[],
  until: bigint,
): ReadMessage[] {
  const aborts = (abortedTransactions ?? []).toSorted((a, b) =>
    a.firstOffset < b.firstOffset ? -1 : 1
  );
  const aborted = new Set<bigint>();
  const messages: ReadMessage[] = [];
  for (const batch of records ?? []) {
    // What came since the end was asked for is read the next time: moved past here, it would never be.
    if (batch.firstOffset >= until) break;
    const last = batch.firstOffset + BigInt(batch.lastOffsetDelta);
    while (aborts.length > 0 && aborts[0]!.firstOffset <= last) {
      aborted.add(aborts.shift()!.producerId);
    }
    if (batch.attributes & CONTROL) {
      if (isAbort(batch)) aborted.delete(batch.producerId);
    } else if (!(batch.attributes & TRANSACTIONAL && aborted.has(batch.producerId))) {
      for (const { offsetDelta, key, value, headers } of batch.records) {
        const offset = batch.firstOffset + BigInt(offsetDelta);
        // A batch is given whole. Messages without a key are of other writers.
        if (offset < from[partition]! || offset >= until || key === null) continue;
        messages.push({
          partition,
          offset,
          key,
          value,
          headers: new Map(headers.map(([name, text]) => [String(name), text as Buffer])),
        });
      }
    }
    from[partition] = last + 1n < until ? last + 1n : until;
  }
  return messages;
}

const isAbort = ({ records: [record] }: Batch): boolean =>
  record?.key?.readInt16BE(KIND_AT) === ABORT;

/** How many offsets a look back begins with, and by what it grows. */
const LOOK_BACK = 500n;
const GROWTH = 4n;

/**
 * The newest messages of keys, `null` where there is none: read from the end backwards, so that what was written last is
 * found soon.
 * @param keys by their partitions, each as text of one character a byte
 */
export async function newestOf(
  client: Client,
  topic: Topic,
  keys: Map<number, Set<string>>,
): Promise<Map<string, ReadMessage>> {
  const found = new Map<string, ReadMessage>();
  if (keys.size === 0) return found;
  const ends = await client.bounds(topic, "end");
  const begins = await client.bounds(topic, "begin");
  for (const [partition, wanted] of keys) {
    const missing = new Set(wanted);
    let size = LOOK_BACK;
    for (let end = ends[partition]!; end > begins[partition]! && missing.size > 0;) {
      const begin = end - size > begins[partition]! ? end - size : begins[partition]!;
      const from: bigint[] = [];
      const until: bigint[] = [];
      [from[partition], until[partition]] = [begin, end];
      const here = new Set<string>();
      for await (const messages of read(client, topic, from, until, [partition])) {
        for (const message of messages) {
          const key = message.key.toString("latin1");
          if (!missing.has(key)) continue;
          // What was fetched around it is not to be kept.
          found.set(key, { ...message, value: message.value && Buffer.from(message.value) });
          here.add(key);
        }
      }
      for (const key of here) missing.delete(key);
      [end, size] = [begin, size * GROWTH];
    }
  }
  return found;
}
