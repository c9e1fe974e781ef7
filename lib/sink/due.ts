/**
 * Documents that are due become ordinary delete events, and receipts of requests go: by the owner of their partition, which
 * looks now and then. Redis's own notices of expired keys get lost.
 * @module
 */

import { failpoint } from "../core/failpoints.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { expireScript, runScript } from "../redis/scripts/mod.ts";
import { lookEachMs } from "./limits.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";

/** How often a partition is looked at, at most, in ms. */
const LOOK_MS = 1000;
/** What one script deletes, so that Redis answers others in between. */
const CHUNK = 200;

/** Deletes what is due in one partition, under one claim. */
export class DueTimes {
  #reader: StreamReader;
  #keys: PartitionKeys;
  #report: PartitionReport;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #looking: Promise<void> | undefined;
  #stopped = false;

  constructor(reader: StreamReader, keys: PartitionKeys, report: PartitionReport) {
    this.#reader = reader;
    this.#keys = keys;
    this.#report = report;
    this.#schedule(0);
  }

  #schedule(ms: number): void {
    if (this.#stopped) return;
    this.#timer = setTimeout(() => {
      this.#looking = this.#look().then((deleted) => {
        this.#schedule(deleted > 0 ? 0 : Math.max(LOOK_MS, lookEachMs(this.#keys)));
      });
    }, ms);
  }

  /** Never rejects: what is due stays so. @returns how many were deleted */
  async #look(): Promise<number> {
    try {
      const deleted = await this.#expire();
      this.#report.over("dueFailed");
      return deleted;
    } catch (error) {
      if (!this.#stopped) this.#report.trouble("dueFailed", error);
      return 0;
    }
  }

  async #expire(): Promise<number> {
    const { stream, settings, due, notes, documentPrefix } = this.#keys;
    const redis = await this.#reader.connection();
    // Who uses none of it may lack the right to more.
    if (await redis.hget(settings, "due") === null) return 0;
    const [seconds] = await redis.time();
    const now = 1000 * (Number(seconds) + 1);
    const members = await redis.zrangebyscore(due, "-inf", now, "LIMIT", 0, CHUNK);
    if (members.length === 0 || this.#stopped) return 0;
    const named = (kind: string) =>
      members.filter((member) => member.startsWith(kind)).map((member) => member.slice(1));
    const [ids, receipts] = [named("d"), named("r")];
    const documents = ids.map((id) => documentPrefix + id);
    await failpoint?.("expiring");
    const names = [stream, settings, due, notes, ...documents, ...receipts];
    const args = [String(ids.length), ...ids];
    return Number(await runScript(redis, expireScript, names, args));
  }

  /** Begins no further look, and waits for the one under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    await this.#looking;
  }
}
