/**
 * The target of a cache: its rows are read in place of documents that Redis has evicted, and put back.
 * @module
 */

import { setImmediate } from "node:timers/promises";
import { type Config, entityConfig, sourceConfig } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { ConnectionError, DocumentError } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { PartitionKeys } from "../redis/keys.ts";
import { fillScript, runScript, type Script } from "../redis/scripts/mod.ts";
import { openTarget, targetFor, type Through } from "../targets/open.ts";
import type { Row, RowsAt, Target } from "../targets/target.ts";
import { askRows } from "./read_through.ts";
import { additionsArgument, encoded } from "./restore.ts";

/** How long a read goes on whose rows keep changing, in ms, and how often it looks again. */
export const PATIENCE_MS = 10_000;
export const LOOK_AGAIN_MS = 5;
/** For how long it is remembered that there is no such document, in ms. */
const MISSING_MS = 1000;

/** What has become of a document that was to be brought into Redis. */
export interface Filled {
  /**
   * - `there`: Redis has it, meanwhile
   * - `filled`: it was missing
   * - `unfilled`: Redis has no memory for it, or cannot hold it as its row is
   * - `missing`: there is none
   */
  outcome: "there" | "filled" | "unfilled" | "missing";
  /** its JSON text; `null` where there is none */
  text: string | null;
  /** why it was not put back, or "" */
  unfilled: string;
}

/** A document's JSON text, `null` where it has no row, and the offset that was read with it. */
export interface Landed {
  text: string | null;
  offset: string;
}

/** The targets that a connection to Redis reads its caches' documents from; they are closed with it. */
export class CacheSource {
  #redis: RedisConnection;
  #config: Config;
  #targets = new Map<string, Promise<Target>>();

  constructor(redis: RedisConnection, config: Config) {
    this.#redis = redis;
    this.#config = config;
    redis.once("end", () => {
      for (const opened of this.#targets.values()) {
        opened.then((target) => target.close()).catch(() => {}); // whoever asked for it has the error
      }
      this.#targets.clear();
    });
  }

  /**
   * Asks the target whether it has a document that Redis does not have.
   * @returns the offset at which it had none; `null` where it has it
   */
  async missingAt(keys: PartitionKeys, docId: string): Promise<string | null> {
    const { offset, rows: [row] } = await this.#rowsAt(keys, [docId]);
    return row === null ? offset : null;
  }

  /**
   * Brings documents of one partition that Redis does not have into it, from their rows. The caller sees to it that not too
   * many ask for the same.
   * @param landed is given each document's row as soon as it is there
   * @returns what has become of each
   * @throws {ConnectionError} where the target cannot be asked, or has applied new events at each of many looks
   */
  async fill(
    keys: PartitionKeys,
    docIds: string[],
    through?: Through,
    landed?: (id: string, row: Landed) => void,
  ): Promise<Map<string, Filled>> {
    const filled = new Map<string, Filled>();
    const deadline = performance.now() + PATIENCE_MS;
    for (let left = docIds; left.length > 0;) {
      left = await this.#fillOnce(keys, left, filled, through, landed);
      if (left.length === 0) break;
      if (performance.now() > deadline) {
        throw new ConnectionError(
          `Cannot read ${
            left[0]
          } of ${keys.entity}: events were applied each time that its row was read, for ` +
            `${PATIENCE_MS / 1000} s; try again`,
        );
      }
      await delay(LOOK_AGAIN_MS);
    }
    return filled;
  }

  /** @returns the ids whose rows are to be read again */
  async #fillOnce(
    keys: PartitionKeys,
    docIds: string[],
    filled: Map<string, Filled>,
    through: Through | undefined,
    landed: ((id: string, row: Landed) => void) | undefined,
  ): Promise<string[]> {
    const { keep_seconds } = entityConfig(this.#config, keys.entity).cache;
    const again: string[] = [];
    for (let left = docIds; left.length > 0;) {
      const { offset, rows, parked } = await this.#rowsAt(keys, left, through);
      const ids = left.slice(0, rows.length);
      if (landed) {
        ids.forEach((id, index) => landed(id, { text: rows[index]?.text ?? null, offset }));
        // Readers go on first: to put rows back takes as long as to read them.
        await setImmediate();
      }
      const answers = await runTogether(this.#redis, this.#config, fillScript, [
        keys.stream,
        keys.settings,
        keys.notes,
        ...ids.flatMap((id) => [keys.documentPrefix + id, keys.askedPrefix + id]),
      ], [
        offset,
        String(1000 * keep_seconds),
        String(MISSING_MS),
        ...ids.flatMap((id, index) => [id, ...fillArguments(rows[index]!, parked[index]!)]),
      ]) as [Filled["outcome"] | "again", string][];
      ids.forEach((id, index) => {
        const [outcome, says] = answers[index]!;
        if (outcome === "again") {
          again.push(id);
          return;
        }
        const row = outcome === "missing" ? null : rows[index]?.text ?? null;
        const text = outcome === "there" ? says : row;
        filled.set(id, { outcome, text, unfilled: outcome === "unfilled" ? says : "" });
      });
      left = left.slice(rows.length);
    }
    return again;
  }

  /** Rows, as documents: `null` also for one that is none. */
  async #rowsAt(
    keys: PartitionKeys,
    docIds: string[],
    through?: Through,
  ): Promise<RowsAt> {
    const given = through && targetFor(through, this.#config, keys, docIds[0]!);
    const { rows, ...at } = await askRows(given ?? this.#targetOf(keys.entity), keys, docIds);
    return { ...at, rows: rows.map((row) => row?.text.startsWith("{") ? row : null) };
  }

  /** The target that has all documents of an entity. */
  #targetOf(entity: string): Promise<Target> {
    const { name } = sourceConfig(this.#config, entity);
    const known = this.#targets.get(name);
    if (known !== undefined) return known;
    const opening = openTarget(this.#config, name);
    this.#targets.set(name, opening);
    // The next call tries again.
    opening.catch(() => this.#targets.delete(name));
    return opening;
  }
}

/**
 * A row as `fill.lua` takes it.
 * @param isParked whether an event of it is parked: Redis has lost its document, and a replay changes the row
 */
function fillArguments(row: Row | null, isParked: boolean): [text: string, additions: string] {
  const spelled = encoded(row);
  if (spelled === null) return ["", ""];
  // A row by another writer may hold what Redis cannot; it is returned, but not put back.
  if (spelled instanceof DocumentError || isParked) return ["-", ""];
  return [spelled.spelled, additionsArgument(spelled.additions)];
}

/** Runs a script; on one Redis as writes do, whose commands have no timers of their own. */
export function runTogether(
  redis: RedisConnection,
  config: Config,
  script: Script,
  keys: string[],
  args: string[],
): Promise<unknown> {
  return redis.sends && config.redis.cluster === null
    ? runScript(redis, script, keys, args, () => redis.evalshaTogether(script.sha, keys, args))
    : runScript(redis, script, keys, args);
}
