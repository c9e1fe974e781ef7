/**
 * Trimming: removes from the stream what all of its targets hold. It also notices that a stream has gone back, since
 * the last entry that the target applied must still be there: the witness.
 * @module
 */

import type { Config } from "../config/load.ts";
import { asError, reasonOf } from "../core/errors.ts";
import { failpoint } from "../core/failpoints.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { withAddress } from "../redis/explain.ts";
import { groupOf, type PartitionKeys, targetsWith } from "../redis/keys.ts";
import { readEntriesRead } from "../redis/lag.ts";
import { readRegistration, type TargetState } from "../redis/registrations.ts";
import { runScript, trimScript } from "../redis/scripts/mod.ts";
import { isNoKey, noteLastId, pairsOf } from "../redis/streams.ts";
import type { Claim } from "../targets/target.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";
import { hasWitness } from "./rewind.ts";

/** How long a small batch may stay in the stream after its commit, in ms: trimming each costs as much as a batch. */
const TRIM_MS = 100;

/** How often what is kept for a time is trimmed where nothing new comes: in tenths of that time, in ms. */
const KEPT_MS = { atLeast: 1000, atMost: 10_000 };

/** Trims the stream of one claim. */
export class Trimmer {
  /** whether the stream no longer holds the last entry that the target applied */
  witnessMissing = false;
  /** what the target may do with the stream, as its settings said last */
  state: TargetState = "active";
  #config: Config;
  #reader: StreamReader;
  #claim: Claim;
  /** events of the stream ever read, up to the offset */
  #entriesRead: number;
  #trimmedTo = "0-0";
  /** whether another target has held up the last trim: it may have moved on, or may be gone */
  #heldUp = false;
  /** whether entries stay that all targets hold, for `streams.keep_seconds` */
  #keeps = false;
  /** by `performance.now()`: a clock that is set back must not hold it up */
  #trimmedAt = -Infinity;
  /** the entry that the next trim must still find */
  #witness: string;
  #trimming: Promise<void> | undefined;
  #stopped = false;
  #report: PartitionReport;

  private constructor(
    config: Config,
    reader: StreamReader,
    claim: Claim,
    report: PartitionReport,
    entriesRead: number,
  ) {
    this.#config = config;
    this.#reader = reader;
    this.#report = report;
    this.#claim = claim;
    this.#entriesRead = entriesRead;
    this.#witness = claim.witness;
  }

  /** Creates a trimmer, and the stream's consumer group, which shows people how far the target is. */
  static async begin(
    config: Config,
    reader: StreamReader,
    claim: Claim,
    report: PartitionReport,
  ): Promise<Trimmer> {
    const { keys, offset, owner } = claim;
    const redis = await reader.connection();
    await showGroup(redis, keys, groupOf(report.place.target), offset, owner);
    await noteLastId(redis, keys);
    const entriesRead = await readEntriesRead(redis, { stream: keys.stream, offset });
    return new Trimmer(config, reader, claim, report, entriesRead);
  }

  /** Notes that a batch was applied. Nobody waits for the trim, and small ones are trimmed together. */
  applied(events: number, more: boolean): void {
    this.#entriesRead += events;
    if (more || performance.now() - this.#trimmedAt >= TRIM_MS) void this.trim();
  }

  /** Trims to the newest offset; one at a time, and only after the commit. */
  async trim(): Promise<void> {
    while (this.#trimming) await this.#trimming;
    const { offset } = this.#claim;
    const nothing = offset === this.#trimmedTo && !this.#heldUp && !this.#isDue;
    if (nothing || this.#stopped) return;
    this.#trimming = this.#trimTo(offset).finally(() => this.#trimming = undefined);
    await this.#trimming;
  }

  /** Whether it is time to trim what is kept. */
  get #isDue(): boolean {
    const { atLeast, atMost } = KEPT_MS;
    const step = Math.min(atMost, Math.max(atLeast, this.#keepMs / 10));
    return this.#keeps && performance.now() - this.#trimmedAt >= step;
  }

  get #keepMs(): number {
    return Math.round(1000 * this.#config.streams.keep_seconds);
  }

  /**
   * Trims a last time, by a connection that is there when the claim's own is closed: until another sink comes, `target
   * list` shows what was told last.
   */
  async finish(redis: RedisConnection): Promise<void> {
    await this.stop();
    const { offset } = this.#claim;
    if (offset !== this.#trimmedTo) await this.#trimTo(offset, redis);
  }

  async #trimTo(offset: string, by?: RedisConnection): Promise<void> {
    const { keys, witness } = this.#claim;
    const { stream, lastId, settings } = keys;
    this.#trimmedAt = performance.now();
    await failpoint?.("trimming");
    let address = "";
    try {
      const redis = by ?? await this.#reader.connection();
      address = redis.address;
      const { target } = this.#report.place;
      const reply = await runScript(redis, trimScript, [stream, lastId, settings], [
        target,
        offset,
        witness,
        groupOf(target),
        String(this.#entriesRead),
        this.#witness,
        String(this.#keepMs),
        ...targetsWith(this.#config, keys).flatMap(({ name, on_full }) => [name, on_full]),
      ]);
      const [removed, state, to, stays, ...detached] = reply as [
        number,
        TargetState,
        string,
        number,
        ...string[],
      ];
      if (removed === -1) this.witnessMissing = true;
      else {
        this.#trimmedTo = offset;
        this.#heldUp = to !== offset;
        this.#keeps = stays > 0;
        this.#witness = witness;
        this.state = state;
      }
      for (const name of detached) this.#report.detached(name);
      this.#report.over("trimFailed");
    } catch (error) {
      if (!this.#stopped) this.#report.trouble("trimFailed", withAddress(asError(error), address));
      // Nothing depends on it: the next batch trims further. Whether this trim took effect is unknown.
      this.#trimmedTo = this.#witness = "0-0";
    }
    await failpoint?.("trimmed");
  }

  /**
   * Checks whether the stream has gone back. With nothing to read there is nothing to trim either, so if the
   * connection lives on, nothing else would notice, and new events below the offset would never be read.
   */
  async lookForWitness(): Promise<void> {
    if (this.#stopped) return;
    const { keys, witness } = this.#claim;
    const redis = await this.#reader.connection();
    const [found, registration, last] = await Promise.all([
      hasWitness(redis, keys, witness),
      readRegistration(redis, keys, this.#report.place.target),
      // An entry with an id that is too high may have come and gone since.
      noteLastId(redis, keys),
    ]);
    this.state = registration?.state ?? "active";
    // For a target that has lost its place, nothing is kept: an entry that is missing says nothing.
    if (this.state !== "active" && this.state !== "paused") return;
    if (!found) this.witnessMissing = true;
    // The settings were removed: the next trim tells them anew.
    if (registration === null) this.#heldUp = true;
    // Mended under a claim that expects no witness: what comes below its offset would never be read.
    if (compareStreamIds(last, this.#claim.offset) < 0) this.witnessMissing = true;
  }

  /** Begins no further trim, and waits for the one under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#trimming;
  }
}

/** The group is for people's tools. A full Redis refuses it, and an empty stream with it; only draining frees memory. */
async function showGroup(
  redis: RedisConnection,
  { stream }: PartitionKeys,
  group: string,
  offset: string,
  owner: string,
): Promise<void> {
  const unlessDone = (error: unknown) => {
    if (!isNoKey(error) && !/^(BUSYGROUP|NOGROUP|OOM) /.test(reasonOf(error))) throw error;
  };
  await redis.xgroup("CREATE", stream, group, offset, "MKSTREAM").catch(unlessDone);
  await redis.xgroup("CREATECONSUMER", stream, group, owner).catch(unlessDone);
  // Those of sinks that are gone; a consumer with pending entries reads by the group, so it is not ours.
  const consumers = await redis.xinfo("CONSUMERS", stream, group).catch(unlessDone);
  for (const consumer of (consumers ?? []) as unknown[]) {
    const fields = pairsOf(consumer);
    const name = String(fields.get("name"));
    if (name === owner || fields.get("pending") !== 0) continue;
    await redis.xgroup("DELCONSUMER", stream, group, name).catch(unlessDone);
  }
}
