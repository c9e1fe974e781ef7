/**
 * Reads a partition's stream from a position, on a connection of its own, within a limit of bytes.
 * @module
 */

import type { Config } from "../config.ts";
import { openReader, type RedisConnection } from "../connections.ts";
import type { PartitionKeys } from "../events.ts";
import { readScript } from "../scripts/mod.ts";
import type { Entry } from "./batch.ts";

/** How long a read waits for events before it looks around again, in ms. */
const BLOCK_MS = 1000;

/** Reads entries of one stream. A lost connection makes calls fail; the next call opens another. */
export class StreamReader {
  #config: Config;
  #keys: PartitionKeys;
  #connection: Promise<RedisConnection> | undefined;

  constructor(config: Config, keys: PartitionKeys) {
    this.#config = config;
    this.#keys = keys;
  }

  /** The connection, opened when first needed. */
  connection(): Promise<RedisConnection> {
    this.#connection ??= openReader(this.#config, BLOCK_MS).catch((error) => {
      this.#connection = undefined;
      throw error;
    });
    return this.#connection;
  }

  /**
   * Reads the entries after a position: at most `size` of them and `batch_bytes`, plus one.
   * @param position a stream id
   * @param wait whether to wait, about a second, for events where there are none
   * @returns entries in order, none where there are none, and whether there may be more
   */
  async read(
    position: string,
    size: number,
    wait: boolean,
  ): Promise<{ entries: Entry[]; more: boolean }> {
    const { batch_bytes } = this.#config.write_behind;
    const redis = await this.connection();
    const { stream, settings } = this.#keys;
    const entries: Entry[] = [];
    let bytes = 0;
    let after = position;
    let more = true;
    // XRANGE knows no limit of bytes. The writers note the longest payload of the stream, so that a
    // count can be chosen that fits whatever the entries are; small ones are then asked for again.
    while (more && entries.length < size && bytes < batch_bytes) {
      const largest = Number(await redis.hget(settings, "largest") ?? 0);
      const fits = largest === 0 ? size : Math.max(1, Math.floor((batch_bytes - bytes) / largest));
      const count = Math.min(size - entries.length, fits);
      const part = await redis.xrangeBuffer(stream, `(${after}`, "+", "COUNT", count) as Entry[];
      for (const entry of part) {
        entries.push(entry);
        for (const field of entry[1]) bytes += field.length;
      }
      more = part.length === count;
      if (more) after = part.at(-1)![0].toString("latin1");
    }
    if (entries.length > 0 || !wait) return { entries, more };
    const reply = await redis.callBuffer(
      "XREAD",
      ...["COUNT", "1", "BLOCK", String(BLOCK_MS), "STREAMS", stream, position],
    );
    // What woke us is read with all that came along by now, by the same rules as ever.
    return reply === null ? { entries, more: false } : this.read(position, size, false);
  }

  /** Reads the present state of documents; fewer than asked where they are more than `batch_bytes`. */
  async documents(docIds: Buffer[]): Promise<(Buffer | null)[]> {
    const redis = await this.connection();
    const prefix = Buffer.from(this.#keys.documentPrefix);
    const keys = docIds.map((id) => Buffer.concat([prefix, id]));
    const texts = await redis.callBuffer(
      "EVAL",
      readScript.source,
      keys.length,
      ...keys,
      String(this.#config.write_behind.batch_bytes),
    ) as Buffer[];
    return texts.map((text) => text.length === 0 ? null : text);
  }

  /** Closes the connection; a read that waits fails at once. */
  close(): void {
    this.#connection?.then((redis) => redis.disconnect(), () => {});
    this.#connection = undefined;
  }
}
