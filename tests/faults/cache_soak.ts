/**
 * What a soak does besides where documents are cached: memory for a tenth of them, readers that check every answer, and a
 * Redis that is emptied or goes back under it.
 */

import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  type Config,
  connectRedis,
  type DeepPartial,
  type JsonObject,
  type Random,
  readByIds,
  seededRandom,
  type Target,
} from "writebehind";
import { canonicalJson } from "writebehind/core/json/equality.ts";
import { below } from "writebehind/core/random.ts";
import { compareStreamIds, versionOf } from "writebehind/core/stream_ids.ts";
import { startRedis } from "writebehind/dev/servers/redis.ts";
import { readCaches } from "writebehind/redis/cache_state.ts";
import { allPartitions, byPartition, documentKey } from "writebehind/redis/keys.ts";
import { dropScript, runScript } from "writebehind/redis/scripts/mod.ts";
import { lastGeneratedId } from "writebehind/redis/streams.ts";
import { hasWitness, resend } from "writebehind/sink/rewind.ts";
import { SESSION, watchedTarget } from "../support/cached.ts";
import { documentsOf, offsetOf, type Pipeline } from "../support/pipeline.ts";
import type { Author } from "./author.ts";
import { ADMINISTRATOR, type Administrator, SETTLE_MS } from "./breaking.ts";
import type { OneRedis } from "./soak_servers.ts";

/** Documents, each of so many characters; Redis has memory for a tenth of them. */
export const DOCUMENTS = 4000;
/** Those of them that are written often. */
export const HOT = 64;
export const PAD: string = "x".repeat(4000);
/** What connections take, and streams whose events wait, in bytes. */
const ROOM = 2 ** 20;
const READERS = 8;
/** Documents that are read together in the end. */
const AT_A_TIME = 100;
/** For how long nothing may change until it is believed that all is applied, in ms. */
const STILL_MS = 1500;
const SAMPLE_MS = 500;
/** Some rows come late, by up to so many ms: meanwhile their documents are written, applied, settled and evicted. */
const LATE_MS = 300;
const LATE_SHARE = 0.25;
/** Between two documents that are evicted by hand: Redis rarely chooses one that was written a moment ago, in ms. */
const EVICTS_EACH_MS = 5;

/** A connection that documents are read by. */
interface Reader {
  redis: Pipeline["redis"];
  config: Config;
  /** the target, whose rows come late */
  through: Target;
}

export const CACHE_OVERRIDES: DeepPartial<Config> = {
  entities: [{ ...SESSION, cache: { enabled: true, keep_seconds: 20 } }],
  documents: { request_id_ttl_seconds: 60 },
};

/** What the readers saw, and what is wrong of it. */
export interface CacheReport {
  reads: number;
  /** reads that were refused: the target, or Redis, was away */
  refused: number;
  /** documents that Redis evicted */
  evicted: number;
  /** most documents that Redis had at a time */
  most: number;
  /** answers older than what the last confirmed write had left */
  older: number;
  /** deleted documents that came back */
  deleted: number;
  /** documents that were not found, though they exist */
  notFound: number;
  /** documents that are as no call has made them */
  wrong: number;
  /** after Redis was emptied or had gone back: documents whose changes the target, or the file, had, and which are gone */
  lostConfirmed: number;
  /** the same of those that neither had */
  gone: number;
  /** the first things that went wrong, for people */
  examples: string[];
}

/** What may not be gone where Redis was emptied, or has gone back. */
interface Kept {
  /** for each stream, the last event that was kept */
  ends: Map<string, string>;
  /** documents whose last events the target did not have, also before the end: an administrator has removed them */
  noted: Set<string>;
}

/** The cache's part of a soak. */
export class CachedSoak {
  readonly report: CacheReport = {
    ...{ reads: 0, refused: 0, evicted: 0, most: 0, older: 0, deleted: 0, notFound: 0, wrong: 0 },
    ...{ lostConfirmed: 0, gone: 0, examples: [] },
  };
  #pipeline: Pipeline;
  #server: OneRedis;
  #author: Author;
  #random: Random;
  /** while it is set, no read begins */
  #held: PromiseWithResolvers<void> | null = null;
  #underWay = new Set<Promise<void>>();

  private constructor(pipeline: Pipeline, server: OneRedis, author: Author, seed: number) {
    this.#pipeline = pipeline;
    this.#server = server;
    this.#author = author;
    this.#random = seededRandom(seed);
  }

  /** Gives the target all documents, of which Redis has none yet, and Redis memory for a tenth of them. */
  static async begin(
    pipeline: Pipeline,
    server: OneRedis,
    author: Author,
    seed: number,
  ): Promise<CachedSoak> {
    const { redis, pool } = pipeline;
    await pool.query(
      `INSERT INTO sessions (id, payload, version)
       SELECT 'd' || n, jsonb_build_object('n', 0, 'born', 0, 'pad', $2::text), 1
         FROM generate_series(0, $1::int - 1) AS n`,
      [DOCUMENTS, PAD],
    );
    for (let n = 0; n < DOCUMENTS; n++) {
      const document = { n: 0, born: 0, pad: PAD };
      author.written.set(`d${n}`, { n: 0, document, version: 1n });
    }
    const used = Number(/used_memory:(\d+)/.exec(await redis.info("memory"))![1]);
    await server.limit(used + DOCUMENTS * PAD.length / 10 + ROOM);
    return new CachedSoak(pipeline, server, author, seed);
  }

  /** Besides what happens to any pipeline; what is emptied needs no rebuild. */
  get administrator(): Administrator {
    const { "FLUSHALL and rebuild": _, ...others } = ADMINISTRATOR;
    return {
      ...others,
      "FLUSHALL": () =>
        this.#goBack(async () => {
          const { redis, pool, config } = this.#pipeline;
          const kept: Kept = { ends: new Map(), noted: new Set() };
          for (const { stream, notes } of allPartitions(config, "session")) {
            kept.ends.set(stream, await offsetOf(pool, stream));
            for (const id of await redis.hkeys(notes)) kept.noted.add(id);
          }
          await redis.flushall();
          return kept;
        }),
      "Redis loads an older file": () =>
        this.#goBack(async () => {
          const kept: Kept = { ends: new Map(), noted: new Set() };
          await this.#server.restart(async (dir) => {
            await cutFile(dir);
            // On a port of its own, where no sink moves the streams' ends.
            const server = await startRedis({ dir });
            try {
              const config = this.#pipeline.with({ redis: { port: server.port } });
              await using redis = await connectRedis(config);
              for (const { stream } of allPartitions(config, "session")) {
                kept.ends.set(stream, await lastGeneratedId(redis, stream));
              }
            } finally {
              await server.stop();
            }
          });
          return kept;
        }),
    };
  }

  /** Reads until the signal is aborted, by a connection for each configuration. */
  async read(signal: AbortSignal, configs: Config[]): Promise<void> {
    await using stack = new AsyncDisposableStack();
    const connections: Reader[] = [];
    for (const config of configs) {
      const { through } = stack.use(
        await watchedTarget(config, async (look) => {
          const rows = await look();
          if (this.#random() < LATE_SHARE) await delay(LATE_MS * this.#random());
          return rows;
        }),
      );
      connections.push({ config, through, redis: stack.use(await connectRedis(config)) });
    }
    const lane = async (reader: Reader) => {
      while (!signal.aborted) {
        await this.#held?.promise;
        const step = this.#readSome(reader).finally(() => this.#underWay.delete(step));
        this.#underWay.add(step);
        await step;
        await delay(5 * this.#random());
      }
    };
    const lanes = Array.from(
      { length: READERS },
      (_, number) => lane(connections[number % connections.length]!),
    );
    await Promise.all([this.#sample(signal), this.#evict(signal), ...lanes]);
  }

  async #readSome({ redis, config, through }: Reader): Promise<void> {
    const ids = new Set<string>();
    for (let count = 1 + below(this.#random, 16); count > 0; count--) ids.add(this.#anyId());
    const wanted = [...ids].map((id) => ({ id, before: this.#author.written.get(id)! }));
    let answers: (JsonObject | null)[];
    try {
      answers = await readByIds(redis, config, "session", [...ids], { through });
    } catch {
      this.report.refused++;
      await delay(20);
      return;
    }
    this.report.reads += answers.length;
    wanted.forEach(({ id, before }, index) => this.#check(id, before, answers[index]!));
  }

  #anyId(): string {
    if (this.#random() < 0.5) return `d${below(this.#random, DOCUMENTS)}`;
    const recent = this.#author.recent;
    return recent.length === 0 ? "d0" : recent[below(this.#random, recent.length)]!;
  }

  /** An answer is right if it is what the last confirmed call had made, or a call that was begun since. */
  #check(
    id: string,
    before: { n: number; document: JsonObject | null },
    answer: JsonObject | null,
  ): void {
    const since = (this.#author.begun.get(id) ?? []).filter(({ n }) => n > before.n);
    if ([before, ...since].some(({ document }) => isSame(document, answer))) return;
    const n = answer === null ? null : Number(answer.n);
    const kind = n === null
      ? "notFound"
      : before.document === null && n < before.n
      ? "deleted"
      : n < before.n
      ? "older"
      : "wrong";
    this.report[kind]++;
    if (this.report.examples.length < 5) {
      const calls = since.map((call) => call.n).join(" ");
      this.report.examples.push(
        `${id}: ${kind}, n is ${n}, and ${before.n} was confirmed before; begun since: ${calls}`,
      );
    }
  }

  /**
   * Lets Redis lose what it has, while nobody writes or reads; from then on that counts which is left.
   * @param lose returns what may not be gone
   */
  async #goBack(lose: () => Promise<Kept>): Promise<void> {
    const goOn = await this.#author.pause();
    const held = this.#held = Promise.withResolvers<void>();
    await Promise.allSettled(this.#underWay);
    try {
      const kept = await lose();
      await this.#settled();
      await this.repair();
      await this.#takeOver(kept);
    } finally {
      this.#held = null;
      held.resolve();
      goOn();
    }
  }

  /** Waits until a sink has seen it, and nothing moves any more. */
  async #settled(): Promise<void> {
    const { redis, pool, config } = this.#pipeline;
    const deadline = Date.now() + SETTLE_MS;
    for (let before = "", since = Date.now(); Date.now() - since < STILL_MS;) {
      const { rows } = await pool.query<{ stream: string; last_id: string; witness: string }>(
        "SELECT stream, last_id, witness FROM writebehind_offset ORDER BY stream",
      );
      const partitions = allPartitions(config, "session");
      const seen = await Promise.all(
        rows.map(({ stream, witness }) =>
          hasWitness(redis, partitions.find((keys) => keys.stream === stream)!, witness)
        ),
      );
      for (const { stream, last_id } of rows) {
        seen.push(compareStreamIds(await lastGeneratedId(redis, stream), last_id) >= 0);
      }
      await caughtUp(redis, pool, config, "session", { deadlineMs: SETTLE_MS });
      const now = JSON.stringify(rows);
      if (now !== before || seen.includes(false)) [before, since] = [now, Date.now()];
      if (Date.now() > deadline) {
        throw new Error("no sink has seen that the streams have gone back");
      }
      await delay(100);
    }
  }

  /**
   * Sends documents again whose events were removed from a stream so that no sink could see it: their notes stay.
   * @returns how many there were
   */
  async repair(): Promise<number> {
    const { redis, pool, config } = this.#pipeline;
    const deadline = Date.now() + SETTLE_MS;
    for (let repaired = 0, before = new Map<string, string>();;) {
      await caughtUp(redis, pool, config, "session", { deadlineMs: SETTLE_MS });
      const now = new Map<string, string>();
      for (const keys of allPartitions(config, "session")) {
        for (const [id, note] of Object.entries(await redis.hgetall(keys.notes))) {
          now.set(id, note);
          if (before.get(id) !== note) continue;
          if (await resend(redis, keys, id) !== null) repaired++;
        }
      }
      if (now.size === 0) return repaired;
      if (Date.now() > deadline) throw new Error(`${now.size} notes stay, and no repair helps`);
      before = now;
      await delay(STILL_MS);
    }
  }

  /** What the rows hold now is what was written last; what is gone is counted. */
  async #takeOver({ ends, noted }: Kept): Promise<void> {
    const { pool, config } = this.#pipeline;
    const { rows } = await pool.query<{ id: string; payload: JsonObject; version: string }>(
      "SELECT id, payload, version FROM sessions",
    );
    const now = new Map(rows.map((row) => [row.id, row]));
    const { written, begun } = this.#author;
    const partitions = allPartitions(config, "session");
    for (const [{ stream }, ids] of byPartition(partitions, [...written.keys()], (id) => id)) {
      const end = versionOf(ends.get(stream)!)!;
      for (const id of ids) {
        const before = written.get(id)!;
        const row = now.get(id);
        const document = row?.payload ?? null;
        if (isSame(before.document, document)) continue;
        if (before.version <= end && !noted.has(id)) {
          this.report.lostConfirmed++;
          this.report.examples.push(`${id}: call ${before.n} is gone, ${before.version} <= ${end}`);
        } else this.report.gone++;
        const n = document === null ? before.n : Number(document.n);
        written.set(id, { n, document, version: row ? BigInt(row.version) : before.version });
      }
    }
    begun.clear();
  }

  /** Evicts documents that were written a moment ago, where they may be. */
  async #evict(signal: AbortSignal): Promise<void> {
    const { redis, config } = this.#pipeline;
    while (!signal.aborted) {
      try {
        await runScript(redis, dropScript, [documentKey(config, "session", this.#anyId())], []);
      } catch {
        // Redis is away.
      }
      await delay(EVICTS_EACH_MS);
    }
  }

  async #sample(signal: AbortSignal): Promise<void> {
    const { redis } = this.#pipeline;
    let evicted = 0;
    while (!signal.aborted) {
      try {
        const now = Number(/evicted_keys:(\d+)/.exec(await redis.info("stats"))![1]);
        this.report.evicted += now < evicted ? now : now - evicted;
        evicted = now;
        const documents = await redis.keys("session:{*}:*");
        this.report.most = Math.max(this.report.most, documents.length);
      } catch {
        // Redis is away.
      }
      await delay(SAMPLE_MS, undefined, { signal }).catch(() => {});
    }
  }

  /** @returns how much is not right in the end: what is in Redis, what a read gives, whether documents are still cached */
  async end(): Promise<number> {
    const { redis, config } = this.#pipeline;
    let lost = 0;
    const wanted = this.#author.documents();
    for (const [id, text] of await documentsOf(this.#pipeline)) {
      if (wanted.get(id) !== text) lost++;
    }
    const ids = [...this.#author.written.keys()];
    for (let at = 0; at < ids.length; at += AT_A_TIME) {
      const some = ids.slice(at, at + AT_A_TIME);
      const documents = await readByIds(redis, config, "session", some);
      some.forEach((id, index) => {
        const document = documents[index]!;
        const text = document === null ? undefined : canonicalJson(JSON.stringify(document));
        if (wanted.get(id) !== text) lost++;
      });
    }
    // Of one that was emptied, and nobody has written since, Redis says nothing.
    const caches = await readCaches(redis, allPartitions(config, "session"));
    return lost + caches.filter(({ state }) => state !== "on").length;
  }
}

const isSame = (one: JsonObject | null, other: JsonObject | null): boolean =>
  one === null || other === null
    ? one === other
    : canonicalJson(JSON.stringify(one)) === canonicalJson(JSON.stringify(other));

/** Takes a part of the end of the append-only file away. */
async function cutFile(dir: string): Promise<void> {
  const folder = join(dir, "appendonlydir");
  const [tail] = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".incr.aof"));
  const path = join(folder, tail!.name);
  const { size } = await Deno.stat(path);
  await Deno.truncate(path, size - Math.min(2 ** 20, Math.floor(size / 4)));
}

/** What is wrong, as one number. */
export const faultsOf = (
  { older, deleted, notFound, wrong, lostConfirmed }: CacheReport,
): number => older + deleted + notFound + wrong + lostConfirmed;

/** The report's lines of the table. */
export function linesOf(report: CacheReport): [string, string | number][] {
  return [
    ["documents", DOCUMENTS],
    ["most of them in Redis at a time", report.most],
    ["documents that Redis evicted", report.evicted],
    ["reads", report.reads],
    ["reads refused, while a server was away", report.refused],
    ["after Redis was emptied or went back: unconfirmed, gone", report.gone],
    ["- confirmed, and gone", report.lostConfirmed],
    ["reads older than the last confirmed write", report.older],
    ["reads of a deleted document", report.deleted],
    ["reads that did not find a document", report.notFound],
    ["reads of what nobody wrote", report.wrong],
  ];
}
