/**
 * Reads a partition's stream from a position, on a connection of its own, within a limit of bytes.
 * @module
 */

import type { Config } from "../config/load.ts";
import { ConnectionError } from "../core/errors.ts";
import { openReader } from "../redis/connect.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { readDocuments } from "../redis/documents.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { type Reply, RespConnection } from "../redis/resp.ts";
import { decode, type Item } from "./decode.ts";
import { batchLimits, lookEachMs } from "./limits.ts";

/** How long a read waits for events before it returns empty, in ms: then its partition looks around. */
const BLOCK_MS = 1000;
/** How long it waits to see whether it may, in ms. */
const BRIEF_MS = 1;

/** Whether a read waits for events, and how. */
export type Wait = boolean | "briefly";

/** Entries that were read and decoded, and whether there may be more. */
export interface Part {
  items: Item[];
  more: boolean;
  /** says that nobody uses them any more, nor documents that were read for them: their memory is used again */
  free(): void;
}

/** Reads entries of one stream. A lost connection makes calls fail; the next call opens another. */
export class StreamReader {
  #config: Config;
  #keys: PartitionKeys;
  #maxBytes: number;
  #blockMs: number;
  #open: Promise<{ control: RedisConnection; bulk: RespConnection }> | undefined;

  constructor(config: Config, keys: PartitionKeys) {
    this.#config = config;
    this.#keys = keys;
    this.#maxBytes = batchLimits(config).bytes;
    this.#blockMs = Math.max(BLOCK_MS, lookEachMs(keys));
  }

  /** The connection for everything but reading; both are opened when first needed. */
  async connection(): Promise<RedisConnection> {
    return (await this.#connections()).control;
  }

  #connections(): Promise<{ control: RedisConnection; bulk: RespConnection }> {
    if (this.#open) return this.#open;
    const open = this.#connect();
    open.catch(() => { // whoever asked for it has the error
      if (this.#open === open) this.#open = undefined;
    });
    return this.#open = open;
  }

  async #connect() {
    const control = await openReader(this.#config, this.#keys);
    let bulk: RespConnection | undefined;
    try {
      bulk = await RespConnection.open(this.#config, control.node!);
      // No reading without trimming: both connections end together.
      control.once(
        "end",
        () => bulk?.close(new ConnectionError("Connection to Redis lost: the one for trimming")),
      );
      // What is checked on one connection must hold for the server that the other reads from.
      if (runIdOf(await control.info("server")) !== runIdOf(await bulk.call(["INFO", "server"]))) {
        throw new ConnectionError("Connection to Redis lost: another server has taken its place");
      }
      return { control, bulk };
    } catch (error) {
      control.disconnect();
      bulk?.close();
      throw error;
    }
  }

  /**
   * Reads the entries after a position: at most `size` of them and the partition's share of
   * `batch_bytes`, or one entry where that is more, plus one.
   * @param position a stream id
   * @param wait whether to wait, a second or more, for events if there are none; then it may return fewer. `briefly`: it
   * does so for a moment, to see whether Redis lets it
   * @param slot called once it is known that there is something to read, or where that is likely
   */
  async read(
    position: string,
    size: number,
    { wait, slot }: { wait: Wait; slot: () => Promise<void> },
  ): Promise<Part> {
    const { max_bytes } = this.#config.documents;
    const { bulk } = await this.#connections();
    const { stream, settings } = this.#keys;
    const free = bulk.begin();
    const items: Item[] = [];
    let bytes = 0;
    let longest = 0;
    const take = (reply: Buffer, spans: readonly number[]) => {
      const length = spans.at(-1)! - spans[0]!;
      bytes += length;
      longest = Math.max(longest, length);
      return decode(reply, spans);
    };
    const sureToFit = Math.max(1, Math.floor(this.#maxBytes / max_bytes));
    // Redis has no limit of bytes here. The writers note the stream's longest payload, so that the count can be
    // chosen to fit in any case; if the entries are small, more are read.
    // Other programs note nothing: of their entries the longest so far counts, and twice as many are read each time.
    const fitting = async () => {
      const noted = Number(await bulk.call(["HGET", settings, "largest"]) ?? 0);
      const largest = Math.max(noted, longest);
      const fits = largest === 0
        ? sureToFit
        : Math.max(1, Math.floor((this.#maxBytes - bytes) / largest));
      const next = noted > 0 ? fits : Math.min(fits, Math.max(sureToFit, 2 * items.length));
      return Math.min(size - items.length, next);
    };
    let after = position;
    let more = true;
    if (wait) {
      // If there are none, Redis answers with what the next write appends. The count is so small that any entries
      // fit, but for one, since asking for the longest payload would cost a round trip. It is more than one, so that
      // mostly the answer is not full: a full one costs two round trips more.
      const count = Math.min(size, sureToFit + 1);
      const blockMs = wait === "briefly" ? BRIEF_MS : this.#blockMs;
      const read = ["XREAD", "COUNT", String(count), "BLOCK", String(blockMs)];
      const part = await bulk.entries([...read, "STREAMS", stream, position], take, blockMs);
      for (const item of part) items.push(item);
      // A full answer is the begin of a burst, which is one batch: its rest would wait for a second commit.
      more = part.length === count;
      if (more) after = part.at(-1)!.streamId;
      if (part.length > 0) await slot();
    } else {
      await slot();
    }
    while (more && items.length < size && bytes < this.#maxBytes) {
      const count = await fitting();
      const range = ["XRANGE", stream, `(${after}`, "+", "COUNT", String(count)];
      const part = await bulk.entries(range, take);
      for (const item of part) items.push(item);
      more = part.length === count;
      if (more) after = part.at(-1)!.streamId;
    }
    return { items, more, free };
  }

  /** Reads the present state of documents; fewer than asked where they are more bytes than a batch may have. */
  async documents(docIds: Buffer[]): Promise<(Buffer | null)[]> {
    const { bulk } = await this.#connections();
    return readDocuments(bulk, this.#keys, docIds, this.#maxBytes);
  }

  /** Closes the connections; a read that waits fails at once. */
  close(): void {
    this.#open?.then(({ control, bulk }) => {
      control.disconnect();
      bulk.close();
    }, () => {}); // one that could not be opened: whoever asked for it has the error
    this.#open = undefined;
  }
}

/** The id of a server's run, which is new after each start. */
function runIdOf(info: Reply | string): string | undefined {
  return /run_id:(\w+)/.exec(String(info))?.[1];
}
