/**
 * What is parked: one message an event in a compacted topic of ours. Its value is the event's payload, unchanged; a
 * header says the rest.
 * @module
 */

import { Buffer } from "node:buffer";
import { compareStreamIds } from "../../core/stream_ids.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import type { Parked } from "../batch.ts";
import { hexOf, type LetterRow, storable } from "../common.ts";
import type { DeadLetterState } from "../dead_letters.ts";
import type { Client } from "./client.ts";
import { type Message, type ReadMessage, utf8 } from "./messages.ts";
import { json } from "./producer.ts";
import { newestOf } from "./reader.ts";
import { TopicView } from "./view.ts";

/** An event of the dead letter, without its payload. */
export interface Letter extends Omit<LetterRow<string>, "id" | "doc_id"> {
  /** the offset of the message that parked it: the topic has one partition */
  id: number;
  /** hexadecimal digits; `null` where the entry could not be decoded */
  doc_id: string | null;
  ts: number | null;
  /** see `hexOf` */
  fields: string | null;
  /** whether there is a payload: an empty one is one */
  has_payload: boolean;
  /** bytes of payload and fields */
  bytes: number;
}

const META = utf8("letter");

/** All that was ever parked. */
export class Letters {
  #client: Client;
  #topic: string;
  #view: TopicView<Letter>;

  constructor(client: Client, topic: string) {
    this.#client = client;
    this.#topic = topic;
    this.#view = new TopicView(client, topic, ({ headers, offset }: ReadMessage) => {
      const meta = headers.get(String(META));
      if (!meta) return null;
      const letter: Omit<Letter, "id"> & { id?: number } = JSON.parse(meta.toString());
      return { ...letter, id: letter.id ?? Number(offset) };
    });
  }

  /** Reads on; see {@linkcode TopicView.refresh}. */
  refresh(options?: { strict: boolean }): Promise<boolean> {
    return this.#view.refresh(options);
  }

  /** All, as they were read last. */
  all(): Letter[] {
    return [...this.#view.values.values()];
  }

  /** The events of a stream that are parked. */
  parkedOf(stream: string): Letter[] {
    return this.all().filter((letter) => letter.stream === stream && letter.state === "parked");
  }

  /** The event at a place in a stream. */
  at(stream: string, streamId: string): Letter | undefined {
    return this.#view.values.get(keyOf(stream, streamId).toString("latin1"));
  }

  /** The payloads of events, by their ids; `null` for one that has none. */
  async payloadsOf(letters: Letter[]): Promise<Map<number, Buffer | null>> {
    const keyed = letters.filter(({ has_payload }) => has_payload)
      .map(({ id, stream, stream_id }) =>
        [id, keyOf(stream, stream_id).toString("latin1")] as const
      );
    const topic = await this.#client.knownTopic(this.#topic);
    const keys = new Map([[0, new Set(keyed.map(([, key]) => key))]]);
    const found = await newestOf(this.#client, topic, keys);
    return new Map([
      ...letters.map(({ id }): [number, null] => [id, null]),
      ...keyed.map(([id, key]): [number, Buffer | null] => [id, found.get(key)?.value ?? null]),
    ]);
  }

  /** The message that parks an event: one that was parked before is tried once more. */
  parking({ entity, stream }: PartitionKeys, event: Parked): Message {
    const { streamId, id, type, ts, payload, fields, sqlstate, reason } = event;
    const now = new Date().toISOString();
    const before = this.at(stream, streamId);
    const hex = hexOf(fields);
    return this.#messageOf({
      ...(before ? { id: before.id } : {}),
      entity,
      stream,
      stream_id: streamId,
      doc_id: id && id.toString("hex"),
      event_type: storable(type),
      state: "parked",
      sqlstate,
      reason: storable(reason),
      attempts: Number(before?.attempts ?? 0) + 1,
      first_at: before?.first_at ?? now,
      last_at: now,
      ts,
      fields: hex,
      has_payload: payload !== null,
      bytes: (payload?.length ?? 0) + (hex?.length ?? 0),
    }, payload);
  }

  /** The messages that change what is said of events. */
  async changing(changes: Map<Letter, Partial<Letter>>): Promise<Message[]> {
    const payloads = await this.payloadsOf([...changes.keys()]);
    const last_at = new Date().toISOString();
    return [...changes].map(([letter, change]) =>
      this.#messageOf({ ...letter, ...change, last_at }, payloads.get(letter.id)!)
    );
  }

  #messageOf(letter: Omit<Letter, "id"> & { id?: number }, payload: Buffer | null): Message {
    return {
      topic: this.#topic,
      key: keyOf(letter.stream, letter.stream_id),
      // None would remove it.
      value: payload ?? Buffer.alloc(0),
      headers: [[META, json(letter)]],
    };
  }
}

const keyOf = (stream: string, streamId: string) => Buffer.from(`${streamId} ${stream}`);

/** The newest events first. */
const newestFirst = (a: Letter, b: Letter): number => compareStreamIds(b.stream_id, a.stream_id);

/** Events by their documents; an entry that could not be decoded is one of its own. */
export function byDocument(
  letters: Letter[],
  also: (letter: Letter) => DeadLetterState | "" = () => "",
): Letter[][] {
  const groups = new Map<string, Letter[]>();
  for (const letter of letters) {
    const { stream, doc_id, id } = letter;
    const name = JSON.stringify([stream, also(letter), doc_id ?? id]);
    const group = groups.get(name);
    if (group) group.push(letter);
    else groups.set(name, [letter]);
  }
  return [...groups.values()].map((group) => group.sort(newestFirst));
}
