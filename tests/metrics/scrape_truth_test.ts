/** After a run with faults, every metric that the Grafana dashboards ask for says what `verify` and the servers say. */

import assert from "node:assert/strict";
import {
  caughtUp,
  insertDocument,
  type JsonObject,
  loadMetrics,
  replayDeadLetters,
  updateDocument,
  verify,
} from "writebehind";
import { dashboards } from "writebehind/dev/grafana/dashboards.ts";
import { startPostgres } from "writebehind/dev/servers/postgres.ts";
import { allPartitions, partitionOf } from "writebehind/redis/keys.ts";
import { keepLedger } from "../faults/ledger.ts";
import { killSink } from "../faults/sinks.ts";
import { type Pipeline, testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, type RunningCommand, startTask } from "../support/processes.ts";
import { seriesOf } from "../support/prometheus.ts";
import { waitFor } from "../support/servers.ts";

const PARTITIONS = 2;

/** One series of a metric. */
interface Series {
  labels: Record<string, string>;
  value: number;
}

function series(scrape: string, name: string): Series[] {
  return Object.entries(seriesOf(scrape, name)).map(([text, value]) => ({
    labels: Object.fromEntries(
      [...text.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, of]) => [key, of]),
    ),
    value,
  }));
}

/** A number for each stream, from PostgreSQL. */
async function byStream({ pool, config }: Pipeline, sql: string): Promise<number[]> {
  const { rows } = await pool.query<{ stream: string; n: string }>(sql);
  return allPartitions(config, "session").map(({ stream }) =>
    Number(rows.find((row) => row.stream === stream)?.n ?? 0)
  );
}

const sum = (values: number[]) => values.reduce((all, value) => all + value, 0);
const minus = (values: number[], others: number[]) =>
  values.map((value, index) => value - others[index]!);

async function beginSink(
  config: Pipeline["config"],
): Promise<{ sink: RunningCommand; url: string }> {
  const path = await configFile({
    write_behind: { lease_seconds: 0.5, retry_base_ms: 5, retry_max_ms: 200 },
    streams: { partitions: PARTITIONS },
  });
  const sink = startTask(["sink", "--config", path, "--metrics", "0"], environmentOf(config));
  const url = await waitFor(
    () => sink.output().match(/metrics for Prometheus at (\S+)/)?.[1],
    { what: "the address of /metrics", deadlineMs: 20_000 },
  );
  return { sink, url };
}

Deno.test("after faults, every metric of the dashboards says what verify and the servers say", async () => {
  await using restarted = new AsyncDisposableStack(); // stopped last: the database is dropped before
  await using pipeline = await testPipeline({ streams: { partitions: PARTITIONS } });
  const { redis, pool, config, servers } = pipeline;
  const partitions = allPartitions(config, "session");
  await keepLedger(pipeline);
  const scrape = async (url: string) => await (await fetch(url)).text();
  const applied = () => byStream(pipeline, "SELECT stream, events AS n FROM writebehind_offset");

  // Acknowledged calls: each is one event of its document's partition.
  const acknowledged = partitions.map(() => 0);
  const write = async (id: string, document: JsonObject, first = true) => {
    if (first) await insertDocument(redis, config, "session", document, id);
    else await updateDocument(redis, config, "session", id, document);
    acknowledged[partitionOf(id, PARTITIONS)]!++;
  };

  // The first sink is killed in the middle of traffic.
  const { sink: first } = await beginSink(config);
  await using _first = first;
  for (let n = 0; n < 600; n++) {
    await write(`d${n}`, { n });
    if (n === 300) {
      await waitFor(async () => sum(await applied()) > 0, { what: "a batch" });
      await killSink(first);
    }
  }
  // A statement that was under way may still be committed.
  const busy = `SELECT count(*)::int AS n FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'`;
  await waitFor(async () => (await pool.query(busy)).rows[0].n === 0, { what: "its last batch" });
  const before = await applied();
  await pool.query(`TRUNCATE ledger_moves; CREATE TABLE written_rows (id TEXT);
    CREATE FUNCTION note_written() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO written_rows VALUES (new.id); RETURN new; END $$;
    CREATE TRIGGER note_written AFTER INSERT OR UPDATE ON sessions
      FOR EACH ROW EXECUTE FUNCTION note_written();`);

  // The second takes over. PostgreSQL is killed while nothing is under way, so that no batch's end is unknown.
  const { sink: second, url } = await beginSink(config);
  await using _second = second;
  /** The target has caught up, and the sink has heard of it. */
  const settled = async () => {
    await caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });
    const done = sum(minus(await applied(), before));
    await waitFor(async () => {
      const counted = series(await scrape(url), "writebehind_sink_events_total");
      return sum(counted.map(({ value }) => value)) === done;
    }, { what: `the sink to have counted ${done} events` });
  };
  await settled();
  assert.notDeepEqual(seriesOf(await scrape(url), "writebehind_applied_events_total"), {});
  await servers.postgres.kill();
  for (let n = 0; n < 50; n++) await write(`d${n}`, { again: n }, false);
  await waitFor(
    async () =>
      series(await scrape(url), "writebehind_sink_failures_in_a_row")
        .every(({ value }) => value > 0),
    { what: "failures" },
  );
  const away = await scrape(url);
  assert.deepEqual(seriesOf(away, "writebehind_applied_events_total"), {}, "nothing old is told");
  const { dir, port } = servers.postgres;
  const again = await startPostgres({ dir, port });
  restarted.defer(() => again.stop("immediate"));
  await settled();

  // Batches wait for a table that somebody has locked: what is written is applied and lag.
  const locking = await pool.connect();
  await locking.query("BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE");
  try {
    const atLock = await applied();
    for (let n = 0; n < 30; n++) await write(`locked${n}`, { n });
    const behind = await scrape(url);
    const told = (name: string) => series(behind, `writebehind_${name}`).map(({ value }) => value);
    assert.deepEqual(told("written_events_total"), acknowledged);
    assert.deepEqual(told("applied_events_total"), atLock);
    assert.deepEqual(told("lag_events"), minus(acknowledged, atLock));
    assert(told("lag_seconds").every((age) => age > 0 && age < 10), behind);
    assert.deepEqual(
      told("stream_events"),
      await Promise.all(partitions.map(({ stream }) => redis.xlen(stream))),
    );
  } finally {
    locking.release(true);
  }
  await settled();

  // Two documents are parked with an event behind each, one of them is replayed.
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  for (const id of ["bad0", "bad1"]) {
    await write(id, { bad: true });
    await write(id, { more: true }, false);
  }
  await settled();
  await pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
  const replayed = await replayDeadLetters(redis, pool, config, "session", { docId: "bad0" });
  assert.deepEqual([replayed.applied, replayed.superseded], [1, 1]);
  // An event of a document that is not there, and a write that is refused.
  await redis.xadd(
    partitions[1]!.stream,
    "*",
    "ts",
    "1",
    "doc_id",
    idOf(1),
    "event_type",
    "update",
  );
  await assert.rejects(updateDocument(redis, config, "session", "nobody", { n: 1 }));
  await settled();

  const report = await verify(redis, pool, config, "session");
  assert.deepEqual([report.counts.mismatches, report.counts.behind], [0, 0]);
  await redis.counters.flush();
  let text = "";
  let counters: Record<string, number> = {};
  await waitFor(async () => {
    text = await scrape(url);
    counters = { ...await loadMetrics(redis) };
    return series(text, "writebehind_events_total").every(({ labels, value }) =>
      counters[`metrics:${labels.side}_${labels.outcome}`] === value
    ) && counters["metrics:postgres_success"]! > 0;
  }, { what: "the counters of the sink, which it sends each second" });

  const events = await applied();
  const written = acknowledged.map((count, index) => count + (index === 1 ? 1 : 0));
  const parked = await byStream(
    pipeline,
    "SELECT stream, count(*) AS n FROM writebehind_dead_letter WHERE state = 'parked' GROUP BY 1",
  );
  const letters = await byStream(
    pipeline,
    "SELECT stream, count(*) AS n FROM writebehind_dead_letter GROUP BY 1",
  );
  const moves = await byStream(
    pipeline,
    "SELECT stream, count(*) AS n FROM ledger_moves GROUP BY 1",
  );
  const { rows: [noted] } = await pool.query("SELECT count(*)::int AS rows FROM written_rows");
  const lengths = await Promise.all(partitions.map(({ stream }) => redis.xlen(stream)));
  const bytes = await Promise.all(
    partitions.map(({ stream }) => redis.call("MEMORY", "USAGE", stream) as Promise<number>),
  );
  const wentBack = await byStream(
    pipeline,
    "SELECT stream, went_back AS n FROM writebehind_offset",
  );
  const zeros = partitions.map(() => 0);
  const ones = partitions.map(() => 1);
  assert.deepEqual(events, written, "all that was acknowledged is applied");
  assert.equal(sum(parked), 2);
  assert.equal(report.counts.parked, 1, "one document of two events");

  const checked = new Set<string>();
  /** A value a partition. */
  const exactly = (name: string, expected: number[]) => {
    checked.add(name);
    const found = series(text, `writebehind_${name}`);
    const values = partitions.map(({ partition }) =>
      found.filter(({ labels }) => labels.partition === String(partition)).map(({ value }) => value)
    );
    assert.deepEqual(values, expected.map((value) => [value]), `${name}\n${text}`);
  };
  /** What no server counts is at least possible. */
  const all = (name: string, holds: (one: Series) => boolean, prefix = "writebehind_") => {
    checked.add(name);
    const found = series(text, `${prefix}${name}`);
    assert(found.length > 0, `${name} is not told`);
    for (const one of found) assert(holds(one), `${name}: ${JSON.stringify(one)}`);
  };
  exactly("written_events_total", written);
  exactly("applied_events_total", events);
  exactly("lag_events", zeros);
  exactly("lag_seconds", zeros);
  exactly("parked_events", parked);
  exactly("owned", ones);
  exactly("went_back_total", wentBack);
  exactly("stream_events", lengths);
  exactly("stream_bytes", bytes);
  exactly("stream_limit_events", ones.map(() => config.streams.max_events));
  exactly("stream_limit_bytes", ones.map(() => config.streams.max_bytes));
  exactly("backpressure", zeros);
  all(
    "events_total",
    ({ labels, value }) => value === counters[`metrics:${labels.side}_${labels.outcome}`],
  );
  assert.equal(counters["metrics:redis_success"], sum(acknowledged));
  assert.equal(counters["metrics:redis_fail"], 1);
  all("server_up", ({ value }) => value === 1);
  // What the second sink has done is what was done since the first one's end.
  const own = minus(events, before);
  exactly("sink_events_total", own);
  exactly("batch_events_sum", own);
  exactly("batch_events_count", moves);
  exactly("batch_duration_seconds_count", moves);
  exactly("sink_parked_total", letters);
  exactly("sink_noops_total", [0, 1]);
  all("sink_rows_total", () => true);
  const rows = sum(series(text, "writebehind_sink_rows_total").map(({ value }) => value));
  assert.equal(rows, noted.rows - replayed.applied, "rows");
  const fresh = series(text, "writebehind_freshness_seconds_count");
  fresh.forEach(({ value }, index) =>
    assert(value > 0 && value <= own[index]! - letters[index]!, `freshness: ${value}`)
  );
  exactly("sink_failures_in_a_row", zeros);
  exactly("sink_halved_total", zeros);
  exactly("sink_trims_failed_total", zeros);
  all("sink_renewals_failed_total", ({ value }) => value >= 0);
  all(
    "sink_retries_total",
    ({ labels, value }) => labels.kind === "transient" ? value > 0 : value === 0,
  );
  all("sink_state", ({ labels, value }) => value === (labels.state === "owner" ? 1 : 0));
  const age = performance.now() / 1000;
  all("sink_lease_age_seconds", ({ value }) => value > 0 && value < age);
  all("build_info", ({ value }) => value === 1);
  const now = Date.now() / 1000;
  all("process_start_time_seconds", ({ value }) => value > now - age && value < now, "");
  all("process_cpu_seconds_total", ({ value }) => value > 0 && value < 2 * age, "");
  all("process_resident_memory_bytes", ({ value }) => value > 2 ** 20 && value < 2 ** 30, "");
  ["freshness_seconds_bucket", "batch_duration_seconds_bucket", "batch_events_bucket"]
    .forEach((name) => checked.add(name)); // their counts and sums are above

  // Without a cache they are not told; with one, tests/operate/cache_figures_test.ts checks each.
  for (
    const name of [
      ...["cache_state", "cache_pending_documents", "cache_reads_total"],
      ...["redis_keys_gone_total", "redis_memory_bytes", "redis_memory_limit_bytes"],
      ...["redis_keys", "redis_evictable_keys"],
    ]
  ) {
    checked.add(name);
    assert.deepEqual(series(text, `writebehind_${name}`), [], name);
  }

  const asked = JSON.stringify(dashboards()).matchAll(/writebehind_(\w+)|(?<![a-z])process_\w+/g);
  const unchecked = new Set([...asked].map(([whole, ours]) => ours ?? whole)).difference(checked);
  assert.deepEqual([...unchecked], [], "the dashboards ask for what nothing here checks");

  // A stream that goes back is counted once, and written stays applied and lag.
  await redis.del(partitions[0]!.stream);
  await write(idOf(0), { late: true });
  await settled();
  text = await scrape(url);
  const went = await byStream(pipeline, "SELECT stream, went_back AS n FROM writebehind_offset");
  assert.equal(went[0], 1);
  exactly("went_back_total", went);
  exactly("applied_events_total", await applied());
  exactly("written_events_total", await applied());
  exactly("lag_events", zeros);
});

/** An id of that partition which nobody else uses. */
function idOf(partition: number): string {
  for (let n = 0;; n++) if (partitionOf(`late${n}`, PARTITIONS) === partition) return `late${n}`;
}
