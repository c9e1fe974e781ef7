/** Row 24: what a cache costs: a hit, a miss, a write, and the sink's drain; and what many due times cost a write. */

import {
  type Config,
  connectPostgres,
  createTable,
  deleteDocument,
  insertDocument,
  readByIds,
  RedisWriteBehind,
  updateDocument,
} from "writebehind";
import { documentKey, partitionKeys } from "writebehind/redis/keys.ts";
import { type Goal, median, perSecond, ratios, type Row, row } from "./measure.ts";
import { send, type Workbench } from "./workbench.ts";
import { type Case, casesOf, PATCH, run } from "./write.ts";

/** An entity with a cache, and one without, in the same servers. */
const CACHED = "session";
const PLAIN = "plain";
/** A table of the target that the misses are held against. */
const SELECT = { name: "bare", text: "SELECT payload FROM sessions WHERE id = $1" };
const IN_FLIGHT = 64;
/** So many misses are measured among hits, with so many before each. */
const RARE = 200;
const HITS_BETWEEN = 7;
/** An entity of which many documents are due, in ten days; and one of which none is. */
const DUE = "due";
const UNDUE = "undue";
const TTL_SECONDS = 864_000;
const FILLED_AT_A_TIME = 1000;

/** How long two calls took, one time a case, in ms. */
interface Pair {
  ours: number[];
  base: number[];
}

/** What one round measured. */
interface Round {
  hit: Pair;
  miss: Pair;
  /** a miss among hits */
  rare: Pair;
  insert: Pair;
  update: Pair;
  remove: Pair;
  /** events a second */
  drain: { ours: number; base: number };
}

export async function cacheRows(bench: Workbench): Promise<Row[]> {
  const entities = [
    { name: CACHED, table: "sessions", index_name: "idx:sessions", cache: { enabled: true } },
    { name: PLAIN, table: "plain", index_name: "idx:plain" },
  ];
  const config = bench.with({ entities });
  await createTable(bench.pool, config, PLAIN);
  const measured: Round[] = [];
  for (let number = 0; number <= bench.rounds; number++) {
    bench.step(number === 0 ? "warm-up: a cache" : `round ${number} of ${bench.rounds}: a cache`);
    const now = await round(bench, config);
    if (number > 0) measured.push(now);
  }
  const compared = (id: string, name: string, of: (round: Round) => Pair, goal: Goal) => {
    const [ours, base] = (["ours", "base"] as const)
      .map((side) => measured.map((round) => median(of(round)[side])));
    const note = `${median(ours!).toFixed(3)} ms / ${median(base!).toFixed(3)} ms`;
    return row(id, name, ratios(ours!, base!), goal, note);
  };
  const without = (what: string) => `${what} p50 with a cache / without, at most`;
  const drains = (side: "ours" | "base") => measured.map(({ drain }) => drain[side]);
  return [
    compared("24a", without("a hit's"), ({ hit }) => hit, { atMost: 1.05 }),
    compared("24b", "a miss's p50 / a SELECT's of its row, at most", ({ miss }) => miss, {
      atMost: 2.5,
    }),
    compared("24g", "the same where seven of eight reads are hits", ({ rare }) => rare, null),
    compared("24c", without("a fresh insert's"), ({ insert }) => insert, { atMost: 1.1 }),
    compared("24d", without("an update's"), ({ update }) => update, { atMost: 1.1 }),
    compared("24e", without("a delete's"), ({ remove }) => remove, { atMost: 1.1 }),
    row(
      "24f",
      "drain with a cache / without",
      ratios(drains("ours"), drains("base")),
      null,
      `${perSecond(drains("ours"))} / ${perSecond(drains("base"))}`,
    ),
    await dueRow(bench),
  ];
}

/** Inserts of documents that are due, where very many are already, beside the same where none is. */
async function dueRow(bench: Workbench): Promise<Row> {
  const { redis, sizes: { writes, largeBacklog }, rounds, step } = bench;
  const entities = [DUE, UNDUE].map((name) => ({ name, table: name, index_name: `idx:${name}` }));
  const config = bench.with({ entities });
  await bench.clear();
  const cases = casesOf(writes);
  const many = largeBacklog.toLocaleString("en");
  const insertInto = (entity: string, number: number) => (one: Case) =>
    insertDocument(redis, config, entity, one.document, `${number}-${one.event.docId}`, {
      ttlSeconds: TTL_SECONDS,
    });
  const measured: Pair[] = [];
  for (let number = 0; number <= rounds; number++) {
    step(number === 0 ? `warm-up: ${many} due times` : `round ${number} of ${rounds}: due times`);
    const now = await inTurns(cases, insertInto(DUE, number), insertInto(UNDUE, number));
    if (number === 0) await fillDue(bench, partitionKeys(config, DUE, 0).due, largeBacklog);
    else measured.push(now);
    await redis.unlink(partitionKeys(config, UNDUE, 0).due);
  }
  const [ours, base] = (["ours", "base"] as const)
    .map((side) => measured.map((pair) => median(pair[side])));
  const name = `an insert's p50 with ttlSeconds, ${many} due times / none, at most`;
  const note = `${median(ours!).toFixed(3)} ms / ${median(base!).toFixed(3)} ms`;
  return row("24h", name, ratios(ours!, base!), { atMost: 1.1 }, note);
}

/** Notes that as many documents are due, spread over as long as any of the measured ones. */
async function fillDue({ redis }: Workbench, key: string, count: number): Promise<void> {
  for (let at = 0; at < count; at += FILLED_AT_A_TIME) {
    const pipeline = redis.pipeline();
    for (let n = at; n < Math.min(count, at + FILLED_AT_A_TIME); n++) {
      // Not in the order of their times, as those of documents with different times.
      const part = (n * 0.618_033_988_75) % 1;
      pipeline.zadd(key, Date.now() + Math.round(2000 * TTL_SECONDS * part), `dfilled-${n}`);
    }
    await send(pipeline);
  }
}

/** All of it once, on emptied servers. */
async function round(bench: Workbench, config: Config): Promise<Round> {
  const { redis, sizes: { writes } } = bench;
  await bench.pool.query("TRUNCATE plain");
  await bench.clear();
  const cases = casesOf(writes);
  const idOf = ({ event: { docId } }: Case) => docId;
  const both = (call: (entity: string, one: Case) => Promise<unknown>) =>
    inTurns(cases, (one) => call(CACHED, one), (one) => call(PLAIN, one));
  const insertInto = (entity: string, one: Case) =>
    insertDocument(redis, config, entity, one.document, idOf(one), { fresh: true });
  const insert = await both(insertInto);
  const update = await both((entity, one) =>
    updateDocument(redis, config, entity, idOf(one), PATCH)
  );
  for (const entity of [CACHED, PLAIN]) await drained(bench, config, entity);

  const read = (entity: string, one: Case) => readByIds(redis, config, entity, [idOf(one)]);
  // The first read of a minute makes a document stay for longer.
  await readByIds(redis, config, CACHED, cases.map(idOf));
  const hit = await both(read);
  await using pool = await connectPostgres(config);
  const client = await pool.connect();
  try {
    const evict = (one: Case) => redis.del(documentKey(config, CACHED, idOf(one)));
    const select = (one: Case) => client.query({ ...SELECT, values: [idOf(one)] });
    const miss = await inTurns(cases, (one) => read(CACHED, one), select, evict);
    const hits = cases.slice(RARE);
    const rare = await inTurns(
      cases.slice(0, RARE),
      (one) => read(CACHED, one),
      select,
      async (one) => {
        for (const other of hits.splice(0, HITS_BETWEEN)) {
          await read(CACHED, other);
          hits.push(other);
        }
        await evict(one);
      },
    );
    const remove = await both((entity, one) => deleteDocument(redis, config, entity, idOf(one)));
    const drain = { ours: 0, base: 0 };
    for (const [side, entity] of [["base", PLAIN], ["ours", CACHED]] as const) {
      await drained(bench, config, entity);
      await run(casesOf(10 * writes), IN_FLIGHT, (one) => insertInto(entity, one), []);
      await bench.pool.query("CHECKPOINT");
      drain[side] = await drained(bench, config, entity);
    }
    return { hit, miss, rare, insert, update, remove, drain };
  } finally {
    client.release();
  }
}

/**
 * One call after the other, each first as often as second, so that both meet the same machine.
 * @param before what is done before each, and not measured
 */
async function inTurns(
  cases: Case[],
  ours: (one: Case) => Promise<unknown>,
  base: (one: Case) => Promise<unknown>,
  before: (one: Case) => Promise<unknown> = () => Promise.resolve(),
): Promise<Pair> {
  const took: Pair = { ours: [], base: [] };
  for (const [index, one] of cases.entries()) {
    const sides = [["ours", ours], ["base", base]] as const;
    for (const [side, call] of index % 2 === 0 ? sides : sides.toReversed()) {
      await before(one);
      await run([one], 1, call, took[side]);
    }
  }
  return took;
}

/** Applies all that is there, and returns the events a second. */
async function drained(
  { redis, pool }: Workbench,
  config: Config,
  entity: string,
): Promise<number> {
  await using sink = new RedisWriteBehind(redis, pool, config, entity);
  const since = performance.now();
  const { events } = await sink.drain();
  return 1000 * events / (performance.now() - since);
}
