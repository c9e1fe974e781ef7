/**
 * Batches in SQLite: packed here, applied in one transaction by the worker.
 * @module
 */

import { type Config, entityConfig } from "../../config/load.ts";
import { failpoint } from "../../core/failpoints.ts";
import { awaitedLater } from "../../core/promises.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { harmlessRowsGo, ownershipLost, shortOf } from "../common.ts";
import { type Batches, type Claim, ParkedChangedError } from "../target.ts";
import type { Batch, BatchRows, Parked, Refusal, Tried, Upsert } from "../batch.ts";
import type { Connections } from "./connection.ts";
import { memoryOf, pack, type PackedRows, packLook, packRows } from "./packed.ts";
import type { ParkedCopy } from "./worker/batches.ts";

/** Applies batches to the tables of a configuration's entities. */
export class SqliteBatches implements Batches {
  #connections: Connections;
  #config: Config;
  /** rows that were packed while another batch was under way */
  #prepared = new WeakMap<Batch, PackedRows>();
  /** lets the batch of a stream that is under way fail */
  #underWay = new Map<string, (reason: Error) => void>();

  constructor(connections: Connections, config: Config) {
    this.#connections = connections;
    this.#config = config;
  }

  #tableOf({ entity }: PartitionKeys): string {
    return entityConfig(this.#config, entity).table;
  }

  prepare(_keys: PartitionKeys, batch: Batch): void {
    this.#prepared.set(batch, packRows(batch));
  }

  async apply(claim: Claim, batch: Batch): Promise<BatchRows> {
    const { keys, offset, epoch, parkedVersion } = claim;
    const { lastId, events } = batch;
    const { entity, stream } = keys;
    const rows = this.#prepared.get(batch) ?? packRows(batch);
    this.#prepared.delete(batch);
    const parking = batch.parked.length > 0;
    const sent = this.#connections.writer.call("apply", [{
      entity,
      table: this.#tableOf(keys),
      stream,
      offset,
      epoch,
      parkedVersion,
      lastId,
      events,
      rows,
      parked: batch.parked.map(copyOf),
    }], memoryOf(rows));
    const outcome = awaitedLater(this.#unlessAbandoned(stream, sent));
    await failpoint?.(`sent ${parking ? "park" : "apply"} ${entity}`);
    const applied = await outcome;
    switch (applied) {
      case "ownership lost":
        throw ownershipLost(keys);
      case "parked changed":
        throw new ParkedChangedError(`what is parked of ${stream} has changed`);
    }
    claim.offset = claim.witness = lastId;
    if (parking) claim.hasParked = true;
    return shortOf(batch, applied);
  }

  async swallowed(
    { keys, offset, epoch }: Claim,
    rows: BatchRows,
  ): Promise<string[]> {
    const [written, removed] = packLook(rows);
    return await this.#connections.reader.call(
      "swallowed",
      [this.#tableOf(keys), keys.stream, offset, epoch, written, removed],
      memoryOf(written, removed),
    );
  }

  /** Lets the batch under way fail with `reason`, whatever becomes of it in the worker. */
  abandon({ stream }: PartitionKeys, reason: Error): void {
    this.#underWay.get(stream)?.(reason);
  }

  async #unlessAbandoned<T>(stream: string, outcome: Promise<T>): Promise<T> {
    const abandoned = Promise.withResolvers<never>();
    this.#underWay.set(stream, abandoned.reject);
    try {
      return await Promise.race([outcome, abandoned.promise]);
    } finally {
      this.#underWay.delete(stream);
    }
  }

  async parkedAmong({ keys }: Claim, ids: Buffer[]): Promise<Set<string>> {
    const packed = pack(ids, (id) => id);
    const places = await this.#connections.reader.call(
      "parkedAmong",
      [[keys.stream], packed],
      memoryOf(packed),
    );
    return new Set(places.map((place) => ids[place]!.toString("latin1")));
  }

  async invalidPayloads(_claim: Claim, upserts: Upsert[]): Promise<Map<string, Refusal>> {
    const packed = pack(upserts, ({ payload }) => payload);
    const refused = await this.#connections.reader.call(
      "invalidPayloads",
      [packed],
      memoryOf(packed),
    );
    return new Map(refused.map(([place, refusal]) => [upserts[place]!.key, refusal]));
  }

  async probe({ keys }: Claim, rows: BatchRows, deep: boolean): Promise<Tried | null> {
    const packed = packRows(rows);
    return await this.#connections.writer.call(
      "probe",
      [this.#tableOf(keys), packed, deep],
      memoryOf(packed),
    );
  }

  works(claim: Claim, rows: keyof BatchRows): Promise<boolean | null> {
    return harmlessRowsGo(
      rows,
      (harmless) => this.probe(claim, harmless, false),
      () => this.#connections.reader.call("anyRow", [this.#tableOf(claim.keys)]),
    );
  }
}

/** The event in memory of its own: of a view, all that it is a view of would travel. */
function copyOf({ id, payload, fields, ...rest }: Parked): ParkedCopy {
  return {
    ...rest,
    id: id && new Uint8Array(id),
    payload: payload && new Uint8Array(payload),
    fields: fields && fields.map((field) => new Uint8Array(field)),
  };
}
