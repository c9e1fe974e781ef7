/** What breaks in a soak: sinks, servers, connections, and what an administrator does; one after the other, by chance. */

import { setTimeout as delay } from "node:timers/promises";
import {
  caughtUp,
  type Random,
  rebuild,
  RebuildRefusedError,
  repairTarget,
  verify,
} from "writebehind";
import { below } from "writebehind/core/random.ts";
import type { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { offsetOf, type Pipeline } from "../support/pipeline.ts";
import { resetRole, ROLE_SETTINGS, setRole } from "./administrator.ts";
import type { Author } from "./author.ts";
import { NETWORK_FAULTS } from "./network_faults.ts";
import type { SharingSinks } from "./sharing_sinks.ts";
import type { BreakablePostgres, RedisFaults } from "./soak_servers.ts";

/** How long everything may take to be applied once nothing breaks any more, in ms. */
export const SETTLE_MS = 60_000;
const SAMPLE_MS = 100;

/** What the pages advise after events were removed: compares, and sends again what differs, until nothing does. */
export async function repair({ redis, pool, config }: Pipeline): Promise<number> {
  const deadline = Date.now() + SETTLE_MS;
  for (let repaired = 0;;) {
    await caughtUp(redis, pool, config, "session", { deadlineMs: SETTLE_MS });
    const { mismatches, counts } = await verify(redis, pool, config, "session");
    if (counts.mismatches + counts.behind === 0) return repaired;
    repaired += (await repairTarget(redis, config, "session", mismatches)).mended;
    if (Date.now() > deadline) {
      throw new Error(`${counts.mismatches} documents differ, and no repair helps`);
    }
  }
}

/** What is broken, and by what. */
export interface Breaking {
  random: Random;
  proxies: { name: string; proxy: TcpProxy }[];
  postgres: BreakablePostgres;
  redisFaults: RedisFaults;
  sinks: SharingSinks;
  faults: Record<string, number>;
  pipeline: Pipeline;
  author: Author;
  /** what an administrator does, by its name */
  administrator: Administrator;
  /** documents that were sent again */
  repaired: number;
  signal: AbortSignal;
}

const streamsOf = ({ config }: Pipeline) =>
  allPartitions(config, "session").map(({ stream }) => stream);

/** One of them, by chance. */
function anyStream(pipeline: Pipeline, random: Random): string {
  const streams = streamsOf(pipeline);
  return streams[below(random, streams.length)]!;
}

/** What an administrator does, by its name. */
export type Administrator = Record<string, (breaking: Breaking) => Promise<unknown>>;

/** What may happen to any pipeline. */
export const ADMINISTRATOR: Administrator = {
  "DEL of a stream": ({ pipeline, random }) => pipeline.redis.del(anyStream(pipeline, random)),
  "XTRIM MAXLEN 0": ({ pipeline, random }) =>
    pipeline.redis.xtrim(anyStream(pipeline, random), "MAXLEN", 0),
  // Where nothing waits and nothing differs, FLUSHALL loses nothing: the target has it all.
  "FLUSHALL and rebuild": async (breaking) => {
    const { pipeline, author } = breaking;
    const goOn = await author.pause();
    try {
      breaking.repaired += await repair(pipeline);
      for (const server of pipeline.redis.servers) await server.flushall();
      await rebuilt(pipeline);
    } finally {
      goOn();
    }
  },
  "table renamed, and back": async ({ pipeline, random }) => {
    await pipeline.pool.query("ALTER TABLE sessions RENAME TO sessions_away");
    await delay(500 * random());
    await pipeline.pool.query("ALTER TABLE sessions_away RENAME TO sessions");
  },
  "role settings changed, and back": async ({ pipeline, random }) => {
    const settings = Object.values(ROLE_SETTINGS);
    await setRole(pipeline, settings[below(random, settings.length)]!);
    await delay(500 * random());
    await resetRole(pipeline);
    await untilWorking(pipeline);
  },
};

/** A rebuild, once a sink has seen that the stream is gone. */
async function rebuilt({ redis, pool, config }: Pipeline): Promise<void> {
  const deadline = Date.now() + SETTLE_MS;
  for (;;) {
    try {
      await rebuild(redis, pool, config, "session");
      return;
    } catch (error) {
      if (!(error instanceof RebuildRefusedError) || Date.now() > deadline) throw error;
      await delay(SAMPLE_MS);
    }
  }
}

/** The pool has noticed that its connections were ended. */
async function untilWorking({ pool }: Pipeline): Promise<void> {
  const deadline = Date.now() + SETTLE_MS;
  while (!await pool.query("SELECT").then(() => true, () => false)) {
    if (Date.now() > deadline) throw new Error("PostgreSQL does not come back");
    await delay(20);
  }
}

/** Faults one after the other, until the signal; at the end everything works again. */
export async function breakThings(breaking: Breaking): Promise<void> {
  const { random, proxies, postgres, redisFaults, sinks, faults, pipeline, signal } = breaking;
  const { administrator } = breaking;
  const anyOf = <T>(things: T[]) => things[below(random, things.length)]!;
  // A table that has no rows yet is made anew where it is missing.
  for (const stream of streamsOf(pipeline)) {
    while (await offsetOf(pipeline.pool, stream) === "0-0" && !signal.aborted) await delay(20);
  }
  while (!signal.aborted) {
    await delay(100 * random());
    const choice = random();
    let kind: string;
    if (choice < 0.18) {
      kind = "sink killed";
      await sinks.killOne(random);
    } else if (choice < 0.23) {
      kind = "sink stopped cleanly, started";
      await sinks.stopOne(random);
    } else if (choice < 0.27) {
      kind = "one more sink joins, and leaves or dies";
      await sinks.joinOne(random);
    } else if (choice < 0.32) {
      kind = "sink stopped (SIGSTOP) past its lease, goes on";
      await sinks.freezeOne(random);
    } else if (choice < 0.4) {
      kind = "PostgreSQL stopped (immediate), started";
      await postgres.restart();
      await untilWorking(pipeline);
    } else if (choice < (proxies.length > 1 ? 0.48 : 0.7)) {
      kind = anyOf(Object.keys(redisFaults));
      await redisFaults[kind]!(random);
    } else if (choice < (proxies.length > 1 ? 0.6 : 0.82)) {
      const name = anyOf(Object.keys(administrator));
      kind = `administrator: ${name}`;
      await administrator[name]!(breaking);
    } else {
      const name = anyOf(Object.keys(NETWORK_FAULTS));
      const place = anyOf(proxies);
      kind = `connections ${name}: ${place.name}`;
      await NETWORK_FAULTS[name]!(place.proxy, random);
    }
    faults[kind] = (faults[kind] ?? 0) + 1;
  }
}
