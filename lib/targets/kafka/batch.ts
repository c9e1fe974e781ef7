/**
 * Batches in Kafka: documents, what is parked, and the offset, in one transaction.
 * @module
 */

import type { Buffer } from "node:buffer";
import { reasonOf } from "../../core/errors.ts";
import { failpoint } from "../../core/failpoints.ts";
import { awaitedLater } from "../../core/promises.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import type { Batch, BatchRows, Parked, Refusal, Tried, Upsert } from "../batch.ts";
import { harmlessRowsGo } from "../common.ts";
import type { Batches, Claim } from "../target.ts";
import { type DocumentsTopic, highest, messagesOf, onlyNewer, refusalOf } from "./documents.ts";
import { answersOf, kafkaErrorKind, RefusedDocumentError } from "./errors.ts";
import type { KafkaOwnership } from "./lease.ts";
import type { Message } from "./messages.ts";
import { checkClaim, type Session, type Shared } from "./session.ts";

/** Writes batches by the sessions of their claims. */
export class KafkaBatches implements Batches {
  readonly everyEvent: boolean;
  #shared: Shared;
  #ownership: KafkaOwnership;
  #anyRow: (entity: string) => Promise<{ id: string; payload: string } | null>;
  /** messages that were made while another batch was under way, or why they could not */
  #prepared = new WeakMap<Batch, Message[] | RefusedDocumentError>();

  constructor(
    shared: Shared,
    ownership: KafkaOwnership,
    anyRow: (entity: string) => Promise<{ id: string; payload: string } | null>,
  ) {
    this.everyEvent = shared.address.every_event;
    this.#shared = shared;
    this.#ownership = ownership;
    this.#anyRow = anyRow;
  }

  prepare(keys: PartitionKeys, batch: Batch): void {
    try {
      this.#prepared.set(batch, messagesOf(this.#shared.documentsOf(keys.entity), batch));
    } catch (error) {
      if (!(error instanceof RefusedDocumentError)) throw error;
      this.#prepared.set(batch, error);
    }
  }

  async apply(claim: Claim, batch: Batch): Promise<BatchRows> {
    const { keys } = claim;
    const session = this.#ownership.sessionOf(claim);
    if (!this.#prepared.has(batch)) this.prepare(keys, batch);
    const prepared = this.#prepared.get(batch)!;
    this.#prepared.delete(batch);
    const { lastId, parked } = batch;
    // What the claim says now: it is another one's once this has been applied.
    const before = { ...claim };
    const outcome = awaitedLater(session.alone(() =>
      session.write(async (state) => {
        checkClaim(before, state);
        if (prepared instanceof RefusedDocumentError) throw prepared;
        const letters = await this.#parking(keys, parked);
        const top = BigInt(state.top!);
        const messages = await this.#newer(keys, batch, prepared, top);
        return {
          messages: [...messages, ...letters],
          state: {
            ...state,
            last_id: lastId,
            witness: lastId,
            events: state.events + batch.events,
            top: String(highest(batch, top)),
          },
        };
      })
    ));
    await failpoint?.(`sent ${parked.length > 0 ? "park" : "apply"} ${keys.entity}`);
    await outcome;
    claim.offset = claim.witness = lastId;
    if (parked.length > 0) claim.hasParked = true;
    return { upserts: [], removals: [] };
  }

  async #newer(
    { entity }: PartitionKeys,
    batch: Batch,
    prepared: Message[],
    top: bigint,
  ): Promise<Message[]> {
    const topic = this.#shared.documentsOf(entity);
    const { upserts, removals } = await onlyNewer(this.#shared.client, topic, batch, top);
    const all = upserts.length === batch.upserts.length &&
      removals.length === batch.removals.length;
    return all ? prepared : messagesOf(topic, { upserts, removals });
  }

  async #parking(keys: PartitionKeys, parked: Parked[]): Promise<Message[]> {
    if (parked.length === 0) return [];
    const { letters } = this.#shared;
    await letters.refresh();
    return parked.map((event) => letters.parking(keys, event));
  }

  /** A topic swallows nothing. */
  swallowed(): Promise<string[]> {
    return Promise.resolve([]);
  }

  async parkedAmong({ keys }: Claim, ids: Buffer[]): Promise<Set<string>> {
    const { letters } = this.#shared;
    await letters.refresh();
    const parked = new Set(letters.parkedOf(keys.stream).map(({ doc_id }) => doc_id));
    return new Set(
      ids.filter((id) => parked.has(id.toString("hex"))).map((id) => id.toString("latin1")),
    );
  }

  invalidPayloads(_claim: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>> {
    const invalid = new Map<string, Refusal>();
    for (const { key, payload } of upserts) {
      const refusal = refusalOf(payload);
      if (refusal) invalid.set(key, { sqlstate: refusal.sqlstate, reason: refusal.message });
    }
    return Promise.resolve(invalid);
  }

  /** Nothing is checked at the commit only. */
  async probe(claim: Claim, rows: BatchRows): Promise<Tried | null> {
    const session = this.#ownership.sessionOf(claim);
    return await session.alone(() =>
      tried(session, this.#shared.documentsOf(claim.keys.entity), rows)
    );
  }

  works(claim: Claim, rows: keyof BatchRows): Promise<boolean | null> {
    return harmlessRowsGo(
      rows,
      (harmless) => this.probe(claim, harmless),
      () => this.#anyRow(claim.keys.entity),
    );
  }
}

/** Tries rows in a transaction that is taken back. @returns why they are refused, `null` where they are not */
export async function tried(
  session: Session,
  topic: DocumentsTopic,
  rows: BatchRows,
): Promise<Tried | null> {
  try {
    await session.attempt(messagesOf(topic, rows));
    return null;
  } catch (error) {
    const kind = kafkaErrorKind(error);
    if (error instanceof RefusedDocumentError) {
      return { kind, sqlstate: error.sqlstate, reason: error.message };
    }
    // What says nothing of the rows.
    if (kind === "transient") throw error;
    return { kind, sqlstate: answersOf(error)[0] ?? "", reason: reasonOf(error) };
  }
}
