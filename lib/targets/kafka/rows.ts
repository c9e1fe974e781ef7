/**
 * Reading documents from an entity's topic. Single ones are looked for from its end backwards. For a walk over all, it
 * is read once and held in memory, and from then on only what came since is read.
 * @module
 */

import { Buffer } from "node:buffer";
import { versionOf } from "../../core/stream_ids.ts";
import { type PartitionKeys, partitionOf } from "../../redis/keys.ts";
import { isSurelyEqual } from "../common.ts";
import {
  PAGE_ROWS,
  READ_BYTES,
  type Row,
  type Rows,
  type RowsAt,
  type ScannedRow,
} from "../target.ts";
import { newestDocuments, rowIn, versionIn } from "./documents.ts";
import { read } from "./reader.ts";
import type { Shared } from "./session.ts";
import { TopicView } from "./view.ts";

/** A document as it is held in memory. */
interface Held {
  value: Buffer;
  version: bigint;
}

/** So often rows and offsets are read until they are of one moment; then the older offsets are taken. */
const MOST_READS = 10;

/** The documents of a configuration's entities. */
export class KafkaRows implements Rows {
  #shared: Shared;
  #views = new Map<string, TopicView<Held>>();
  /** keys in order, of a walk over all */
  #sorted: string[] = [];

  constructor(shared: Shared) {
    this.#shared = shared;
  }

  async size(entity: string): Promise<number> {
    const { client } = this.#shared;
    const topic = await client.topic(this.#shared.topicOf(entity));
    if (topic === null) return 0;
    const [begins, ends] = [await client.bounds(topic, "begin"), await client.bounds(topic, "end")];
    return ends.reduce((sum, end, partition) => sum + Number(end - begins[partition]!), 0);
  }

  async *ids(entity: string): AsyncGenerator<string[]> {
    const view = await this.#viewOf(entity);
    const keys = [...view.values.keys()].sort();
    for (let at = 0; at < keys.length; at += PAGE_ROWS) {
      yield keys.slice(at, at + PAGE_ROWS).map(idOf);
    }
  }

  async notSurelyEqual(
    entity: string,
    ids: Buffer[],
    texts: (Buffer | null)[],
  ): Promise<string[]> {
    const { values } = await this.#viewOf(entity);
    return ids.filter((id, index) => {
      const held = values.get(id.toString("latin1"));
      return !isSurelyEqual(texts[index]!, held ? held.value.toString() : null);
    }).map(String);
  }

  async at(keys: PartitionKeys, ids: string[]): Promise<RowsAt> {
    const { letters } = this.#shared;
    const wanted = ids.map((id) => Buffer.from(id));
    const [offsets, found] = await this.#together([keys.stream], async () => {
      await letters.refresh();
      return await this.#newest(keys.entity, wanted);
    });
    const parked = new Map<string, bigint | null>();
    for (const { doc_id, stream_id } of letters.parkedOf(keys.stream)) {
      if (doc_id === null) continue;
      const before = parked.get(doc_id);
      const version = versionOf(stream_id);
      if (before === null || before !== undefined && version !== null && version < before) continue;
      parked.set(doc_id, version);
    }
    const rows: (Row | null)[] = [];
    let bytes = 0;
    for (const id of wanted) {
      if (bytes >= READ_BYTES) break;
      const row = found.get(id.toString("latin1")) ?? null;
      rows.push(row);
      bytes += row?.text.length ?? 0;
    }
    return {
      offset: offsets[0]!,
      rows,
      parked: rows.map((row, index) => {
        const version = parked.get(wanted[index]!.toString("hex"));
        return version !== undefined &&
          (version === null || row === null || version > BigInt(row.version));
      }),
    };
  }

  async scan(
    entity: string,
    partitions: PartitionKeys[],
    after: string,
  ): Promise<ScannedRow[]> {
    const { letters } = this.#shared;
    const streams = partitions.map(({ stream }) => stream);
    const [offsets, values] = await this.#together(streams, async () => {
      await letters.refresh();
      return (await this.#viewOf(entity)).values;
    });
    if (after === "") this.#sorted = [...values.keys()].sort();
    const parked = new Set(
      streams.flatMap((stream) => letters.parkedOf(stream)).map(({ doc_id }) => doc_id),
    );
    const rows: ScannedRow[] = [];
    let bytes = 0;
    for (let at = placeAfter(this.#sorted, latin(after)); at < this.#sorted.length; at++) {
      if (rows.length === PAGE_ROWS || bytes >= READ_BYTES) break;
      const key = this.#sorted[at]!;
      const held = values.get(key);
      if (!held) continue; // it was removed since the walk began
      const id = idOf(key);
      rows.push({
        id,
        text: held.value.toString(),
        version: String(held.version),
        offset: offsets[partitionOf(id, streams.length)]!,
        parked: parked.has(Buffer.from(id).toString("hex")),
      });
      bytes += held.value.length;
    }
    return rows;
  }

  async parkedAmong(partitions: PartitionKeys[], ids: string[]): Promise<Set<string>> {
    const { letters } = this.#shared;
    await letters.refresh();
    const parked = new Set(
      partitions.flatMap(({ stream }) => letters.parkedOf(stream)).map(({ doc_id }) => doc_id),
    );
    return new Set(ids.filter((id) => parked.has(Buffer.from(id).toString("hex"))));
  }

  /** Any document, though it may not be the newest state of it; `null` where there is none. */
  async anyRow(entity: string): Promise<{ id: string; payload: string } | null> {
    const { client } = this.#shared;
    return await client.withTopic(this.#shared.topicOf(entity), async (topic) => {
      const from = await client.bounds(topic, "begin");
      for await (const page of read(client, topic, from, await client.bounds(topic, "end"))) {
        const found = page.find(({ value }) => value !== null);
        if (found) return { id: found.key.toString(), payload: found.value!.toString() };
      }
      return null;
    });
  }

  /** The newest rows of documents, by the ids' bytes as text of one character a byte. */
  async #newest(entity: string, ids: Buffer[]): Promise<Map<string, Row>> {
    const rows = new Map<string, Row>();
    if (this.#views.has(entity)) {
      const { values } = await this.#viewOf(entity);
      for (const id of ids) {
        const key = id.toString("latin1");
        const held = values.get(key);
        if (held) rows.set(key, { text: held.value.toString(), version: String(held.version) });
      }
      return rows;
    }
    const { client } = this.#shared;
    const name = this.#shared.topicOf(entity);
    if (await client.topic(name) === null) return rows;
    for (const [key, message] of await newestDocuments(client, name, ids)) {
      const row = rowIn(message);
      if (row) rows.set(key, row);
    }
    return rows;
  }

  /** Reads so that no offset moves meanwhile: what is read is of one moment with the offsets. */
  async #together<T>(streams: string[], work: () => Promise<T>): Promise<[string[], T]> {
    const { states } = this.#shared;
    const read = async () => {
      await states.refresh();
      return streams.map((stream) => states.of(stream)?.last_id ?? "0-0");
    };
    let offsets = await read();
    for (let reads = 1;; reads++) {
      const result = await work();
      const now = await read();
      if (reads === MOST_READS || now.every((offset, index) => offset === offsets[index])) {
        return [offsets, result];
      }
      offsets = now;
    }
  }

  async #viewOf(entity: string): Promise<TopicView<Held>> {
    let view = this.#views.get(entity);
    if (!view) {
      view = new TopicView<Held>(
        this.#shared.client,
        this.#shared.topicOf(entity),
        (message) =>
          message.value && {
            value: Buffer.from(message.value),
            version: versionIn(message),
          },
      );
      this.#views.set(entity, view);
    }
    await view.refresh();
    return view;
  }
}

const idOf = (key: string): string => Buffer.from(key, "latin1").toString();
const latin = (id: string): string => Buffer.from(id).toString("latin1");

/** The place of the first key behind `after`. */
function placeAfter(keys: string[], after: string): number {
  let [low, high] = [0, keys.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (keys[middle]! <= after) low = middle + 1;
    else high = middle;
  }
  return after === "" ? 0 : low;
}
