/**
 * What is parked of one partition in Kafka, held, so that it can be applied again.
 * @module
 */

import { Buffer } from "node:buffer";
import { WriteBehindError } from "../../core/errors.ts";
import { type EventType, versionAt } from "../../core/stream_ids.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { type BatchRows, byPlace, type Removal, type Tried, type Upsert } from "../batch.ts";
import { fieldsOf, storable } from "../common.ts";
import type { HeldDeadLetters, ParkedEvent, Settled } from "../dead_letters.ts";
import { tried } from "./batch.ts";
import {
  type DocumentsTopic,
  highest,
  messagesOf,
  newestDocuments,
  onlyNewer,
  versionIn,
} from "./documents.ts";
import type { Letter } from "./letters.ts";
import type { Session, Shared } from "./session.ts";
import { changedIn, type State } from "./states.ts";

type AnyRow = () => Promise<{ id: string; payload: string } | null>;

/**
 * The dead letter of one partition, held. Rows are tried in transactions that are taken back, and all that stays is
 * written in one at the end.
 */
export class Held implements HeldDeadLetters {
  #shared: Shared;
  #keys: PartitionKeys;
  #session: Session;
  #keep: () => Promise<void>;
  #anyRow: AnyRow;
  /** the state that all was read with */
  #state: State;
  #upserts: Upsert[] = [];
  #removals: Removal[] = [];
  /** the last version of each document that is to be written; `null` where it is to be removed */
  #last = new Map<string, bigint | null>();
  #changes = new Map<Letter, Partial<Letter>>();

  constructor(
    shared: Shared,
    keys: PartitionKeys,
    session: Session,
    keep: () => Promise<void>,
    anyRow: AnyRow,
  ) {
    this.#shared = shared;
    this.#keys = keys;
    this.#session = session;
    this.#keep = keep;
    this.#anyRow = anyRow;
    this.#state = session.state;
  }

  get #topic(): DocumentsTopic {
    return this.#shared.documentsOf(this.#keys.entity);
  }

  #byIds(ids: string[]): Letter[] {
    const wanted = new Set(ids);
    return this.#shared.letters.all().filter(({ id }) => wanted.has(String(id)));
  }

  entries(ids: string[]): Promise<{ id: string; streamId: string; fields: Buffer[] }[]> {
    const letters = this.#byIds(ids).sort((a, b) => a.id - b.id);
    return Promise.resolve(letters.map(({ id, stream_id, fields }) => ({
      id: String(id),
      streamId: stream_id,
      fields: fieldsOf(fields) ?? [],
    })));
  }

  events(docIds: Buffer[]): Promise<ParkedEvent[]> {
    const wanted = new Set(docIds.map((id) => id.toString("hex")));
    const found = this.#shared.letters.parkedOf(this.#keys.stream).filter(({ doc_id }) =>
      doc_id !== null && wanted.has(doc_id)
    );
    return Promise.resolve(found.map(({ id, stream_id, doc_id, event_type, ts }) => ({
      id: String(id),
      streamId: stream_id,
      docId: Buffer.from(doc_id!, "hex"),
      type: event_type as EventType,
      ts: ts!,
    })));
  }

  async payloads(ids: string[]): Promise<Map<string, Buffer | null>> {
    const { letters } = this.#shared;
    const payloads = await letters.payloadsOf(this.#byIds(ids));
    return new Map([...payloads].map(([id, payload]) => [String(id), payload]));
  }

  async hasRow(docId: Buffer): Promise<boolean> {
    return (await this.#versions([docId])).has(docId.toString("latin1"));
  }

  /** The versions of documents that are there, with what is to be written. */
  async #versions(ids: Buffer[]): Promise<Map<string, bigint>> {
    const versions = new Map<string, bigint>();
    const there = await newestDocuments(this.#shared.client, this.#topic.name, ids);
    for (const id of ids) {
      const key = id.toString("latin1");
      const message = there.get(key);
      const last = this.#last.get(key);
      if (last !== undefined) { if (last !== null) versions.set(key, last); }
      else if (message?.value) versions.set(key, versionIn(message));
    }
    return versions;
  }

  async attempt(rows: BatchRows, keep: boolean): Promise<Tried | null> {
    await this.#keep();
    const refusal = await tried(this.#session, this.#topic, rows);
    if (refusal !== null || !keep) return refusal;
    const versions = await this.#versions([...rows.upserts, ...rows.removals].map(({ id }) => id));
    const isNewer = (row: Removal) => (versions.get(row.key) ?? -1n) < versionAt(row);
    const upserts = rows.upserts.filter(isNewer);
    const removals = rows.removals.filter(isNewer);
    this.#upserts.push(...upserts);
    this.#removals.push(...removals);
    const written = upserts.map((row): [Removal, bigint | null] => [row, versionAt(row)]);
    const removed = removals.map((row): [Removal, bigint | null] => [row, null]);
    for (const [{ key }, version] of [...written, ...removed].sort(([a], [b]) => byPlace(a, b))) {
      this.#last.set(key, version);
    }
    return null;
  }

  async swallowed({ upserts, removals }: BatchRows): Promise<string[]> {
    const versions = await this.#versions([...upserts, ...removals].map(({ id }) => id));
    const isOlder = (row: Removal, missing: boolean) => {
      const version = versions.get(row.key);
      return version === undefined ? missing : version < versionAt(row);
    };
    return [
      ...upserts.filter((row) => isOlder(row, true)),
      ...removals.filter((row) => isOlder(row, false)),
    ].map(({ id }) => id.toString());
  }

  async anyRow(): Promise<{ id: string; payload: string } | null> {
    const [upsert] = this.#upserts;
    if (upsert) return { id: upsert.id.toString(), payload: upsert.payload.toString() };
    return await this.#anyRow();
  }

  settle({ replayed, superseded, refused }: Settled): Promise<void> {
    const note = (id: string, change: (letter: Letter) => Partial<Letter>) => {
      const [letter] = this.#byIds([id]);
      if (letter) this.#changes.set(letter, { ...this.#changes.get(letter), ...change(letter) });
    };
    const once = ({ attempts }: Letter) => ({ attempts: Number(attempts) + 1 });
    for (const id of replayed) note(id, (letter) => ({ state: "replayed", ...once(letter) }));
    for (const id of superseded) note(id, () => ({ state: "superseded" }));
    for (const { id, sqlstate, reason } of refused) {
      note(id, (letter) => ({ sqlstate, reason: storable(reason), ...once(letter) }));
    }
    return Promise.resolve();
  }

  /** Writes all that stays. @throws where somebody else has written meanwhile */
  async write(): Promise<void> {
    await this.#keep();
    const { letters, client } = this.#shared;
    const all = { upserts: this.#upserts, removals: this.#removals };
    const changed = await letters.changing(this.#changes);
    await this.#session.write(async (state) => {
      const { epoch, last_id, parked_version } = this.#state;
      if (
        state.epoch !== epoch || state.last_id !== last_id ||
        state.parked_version !== parked_version
      ) {
        throw new WriteBehindError("the partition has changed meanwhile: run it again");
      }
      const top = BigInt(state.top!);
      const rows = await onlyNewer(client, this.#topic, all, top);
      return {
        messages: [...messagesOf(this.#topic, rows), ...changed],
        state: { ...changedIn(state), top: String(highest(rows, top)) },
      };
    });
  }
}
