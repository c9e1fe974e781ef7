import assert from "node:assert/strict";
import type { Config } from "writebehind";
import { connectPostgres, insertDocument, pauseTarget, RedisWriteBehind } from "writebehind";
import { type MetricsServer, serveMetrics } from "writebehind/metrics/prometheus.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { type Pipeline, testPipeline } from "../support/pipeline.ts";
import { isInstalled } from "../support/programs.ts";
import { promtool, seriesOf } from "../support/prometheus.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { testFolder, waitFor } from "../support/servers.ts";

/** A sink that has not begun, and the endpoint that tells of it. */
function served({ redis, pool, config: own }: Pipeline, config: Config = own) {
  const sink = new RedisWriteBehind(redis, pool, config, "session");
  const target = targetOf(pool, config);
  const watched = { redis, target, config, entity: "session" };
  const server = serveMetrics({ port: 0 });
  server.watch(watched, sink);
  return { sink, server };
}

async function scrape({ url }: MetricsServer): Promise<string> {
  const response = await fetch(url);
  const text = await response.text();
  assert.equal(response.status, 200, text);
  return text;
}

const OF_TARGET = 'entity="session",partition="0",target="postgresql"';
const TARGET_UP = 'server="target",target="postgresql"';

Deno.test("a scrape tells what the streams and the target say, and what the sink has counted", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->>'bad' IS NULL)");
  const { sink, server } = served(pipeline);
  await using _server = server;
  await using _sink = sink;
  const expect = async (expected: Record<string, number>) => {
    const text = await scrape(server);
    for (const [name, value] of Object.entries(expected)) {
      const values = seriesOf(text, `writebehind_${name}`);
      const labels = Object.keys(values).find((labels) => labels.startsWith(OF_TARGET));
      assert.equal(values[labels!], value, `${name}\n${text}`);
    }
    return text;
  };
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await insertDocument(redis, config, "session", { n: 1 }, "b");
  await insertDocument(redis, config, "session", { bad: true }, "c");
  await redis.counters.flush();
  await expect({
    written_events_total: 3,
    applied_events_total: 0,
    lag_events: 3,
    owned: 0,
    sink_events_total: 0,
    freshness_seconds_count: 0,
  });
  sink.start();
  await waitFor(() => sink.status.events === 3, { what: "the events to be applied" });
  await waitFor(async () => await redis.xlen("stream:session") === 1, { what: "the trim" });
  const after = await expect({
    written_events_total: 3,
    applied_events_total: 3,
    lag_events: 0,
    lag_seconds: 0,
    parked_events: 1,
    owned: 1,
    went_back_total: 0,
    sink_events_total: 3,
    sink_rows_total: 2,
    sink_parked_total: 1,
    // What is parked is not visible.
    freshness_seconds_count: 2,
    batch_duration_seconds_count: 1,
    batch_events_sum: 3,
    sink_trims_failed_total: 0,
  });
  const ofProcess = `${OF_TARGET},process="${sink.process}"`;
  const states = seriesOf(after, "writebehind_sink_state");
  assert.equal(Object.keys(states).length, 5);
  assert.equal(states[`${ofProcess},state="owner"`], 1);
  assert.equal(states[`${ofProcess},state="paused"`], 0);
  assert(seriesOf(after, "writebehind_sink_lease_age_seconds")[ofProcess]! >= 0);
  assert.deepEqual(seriesOf(after, "writebehind_server_up"), {
    [TARGET_UP]: 1,
    'server="redis"': 1,
  });
  assert.match(after, /^writebehind_events_total\{side="redis",outcome="success"\} 3$/m);
  assert.match(after, /^writebehind_build_info\{version="[\d.]+",deno="[\d.]+"\} 1$/m);
  await sink.stop();
  await expect({ owned: 0, sink_events_total: 3 });
  const registered = async () =>
    Object.entries(seriesOf(await scrape(server), "writebehind_target_state"))
      .flatMap(([labels, value]) => value === 1 ? labels : []);
  assert.deepEqual(await registered(), [`${OF_TARGET},state="active"`]);
  await pauseTarget(redis, config, "session", "postgresql");
  assert.deepEqual(await registered(), [`${OF_TARGET},state="paused"`]);
  assert.equal(await (await fetch(new URL("/healthz", server.url))).text(), "ok\n");
});

Deno.test("a scrape asks the target once for each partition, and its figures are those of one reading", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 3 } });
  const { redis, pool, config } = pipeline;
  for (let n = 0; n < 20; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
  await using sink = new RedisWriteBehind(redis, pool, config, "session");
  await sink.drain();
  const target = targetOf(pool, config);
  const asked: string[] = [];
  const standing = target.offsets.standing.bind(target.offsets);
  Object.defineProperty(target.offsets, "standing", {
    value: (...[keys, options]: Parameters<typeof standing>) => {
      asked.push(keys.stream);
      return standing(keys, options);
    },
  });
  const watched = { redis, target, config, entity: "session" };
  await using server = serveMetrics({ port: 0 });
  server.watch(watched, sink);
  const text = await scrape(server);
  assert.deepEqual(asked.sort(), allPartitions(config, "session").map(({ stream }) => stream));
  const sum = (name: string) =>
    Object.values(seriesOf(text, `writebehind_${name}`)).reduce((all, value) => all + value, 0);
  assert.deepEqual([sum("applied_events_total"), sum("written_events_total")], [20, 20]);
});

Deno.test({
  name:
    "promtool finds the metrics as Prometheus's conventions want them (apt-get install prometheus)",
  ignore: !isInstalled("promtool"),
  fn: async () => {
    await using pipeline = await testPipeline();
    const { redis, config } = pipeline;
    const { sink, server } = served(pipeline);
    await using _server = server;
    await using _sink = sink;
    await insertDocument(redis, config, "session", { n: 1 }, "a");
    await sink.drain();
    const { success, output } = await promtool(["check", "metrics"], await scrape(server));
    assert(success, output);
    assert.equal(output, "");
  },
});

Deno.test("a server that is away is told as away, and nothing old stands for what it would say", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  await using proxy = await TcpProxy.start(config.postgresql);
  await using pool = await connectPostgres(
    pipeline.with({ postgresql: { host: proxy.host, port: proxy.port } }),
  );
  const { sink, server } = served({ ...pipeline, pool });
  await using _server = server;
  await using _sink = sink;
  sink.start();
  await waitFor(() => sink.status.partitions[0]!.state === "owner", { what: "the claim" });
  const silent: string[] = [];
  sink.events.on("scrapeFailed", (event) => {
    silent.push(`${event.server} of ${event.entity}: ${event.error.message}`);
  });
  proxy.halfOpen();
  const awayNow = await scrape(server);
  await scrape(server);
  assert.equal(seriesOf(awayNow, "writebehind_server_up")[TARGET_UP], 0, "it is silent");
  await proxy.refuse();
  const once = ["target of session: no answer within 2000 ms"];
  assert.deepEqual(silent, once, "once a minute");
  await proxy.heal();
  await waitFor(
    async () => seriesOf(await scrape(server), "writebehind_server_up")[TARGET_UP] === 1,
    { what: "the target to be told as back" },
  );
  await proxy.refuse();
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await waitFor(() => sink.status.partitions[0]!.failuresInARow > 0, { what: "a failure" });
  const text = await scrape(server);
  const up = seriesOf(text, "writebehind_server_up");
  assert.deepEqual(up, { [TARGET_UP]: 0, 'server="redis"': 1 });
  assert.deepEqual(seriesOf(text, "writebehind_lag_events"), {});
  assert.equal(seriesOf(text, "writebehind_stream_events")['entity="session",partition="0"'], 1);
  const retries = seriesOf(text, "writebehind_sink_retries_total");
  const labels = `${OF_TARGET},process="${sink.process}",kind="transient"`;
  assert(retries[labels]! > 0, text);
  assert(Object.values(seriesOf(text, "writebehind_sink_failures_in_a_row"))[0]! > 0, text);
  await proxy.heal();
});

Deno.test("of several targets, one that cannot be opened is told as away until it is open", async () => {
  await using pipeline = await testPipeline();
  const folder = testFolder("archive");
  await Deno.writeTextFile(folder, "in the folder's place");
  const file = await configFile({
    targets: [
      { name: "postgresql", kind: "postgresql" },
      { name: "archive", kind: "sqlite", path: `${folder}/archive.db` },
    ],
    write_behind: { retry_max_ms: 200 },
  });
  const args = ["sink", "--config", file, "--metrics", "0"];
  await using sink = startTask(args, environmentOf(pipeline.config));
  const url = await waitFor(
    () => sink.output().match(/metrics for Prometheus at (\S+)/)?.[1],
    { what: "the address of /metrics", deadlineMs: 20_000 },
  );
  const up = async () => seriesOf(await (await fetch(url)).text(), "writebehind_server_up");
  const archive = 'server="target",target="archive"';
  await waitFor(async () => (await up())[TARGET_UP] === 1, {
    what: "the other target to be open",
    deadlineMs: 20_000,
  });
  assert.deepEqual(await up(), { [archive]: 0, [TARGET_UP]: 1, 'server="redis"': 1 });
  await Deno.remove(folder);
  await waitFor(async () => (await up())[archive] === 1, {
    what: "it to be told as open",
    deadlineMs: 20_000,
  });
});

Deno.test("a counter goes on from what it has told where a server has lost some of it", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  const { sink, server } = served(pipeline);
  await using _server = server;
  await using _sink = sink;
  const told = async () => {
    const text = await scrape(server);
    const ofTarget = ["written_events", "applied_events", "went_back"].map((name) =>
      seriesOf(text, `writebehind_${name}_total`)[OF_TARGET]
    );
    return [
      ...ofTarget,
      seriesOf(text, "writebehind_events_total")['side="redis",outcome="success"'],
    ];
  };
  for (const id of ["a", "b"]) await insertDocument(redis, config, "session", { n: 1 }, id);
  await sink.drain();
  await insertDocument(redis, config, "session", { n: 1 }, "c");
  await redis.counters.flush();
  await pool.query("UPDATE writebehind_offset SET went_back = 3");
  assert.deepEqual(await told(), [3, 2, 3, 3]);
  // As after the promotion of a replica and a standby that were both behind.
  await pool.query("UPDATE writebehind_offset SET events = 1, went_back = 2");
  await redis.del("stream:session");
  await redis.set("metrics:redis_success", 1);
  assert.deepEqual(await told(), [3, 2, 3, 3]);
  await pool.query("UPDATE writebehind_offset SET events = 6, went_back = 3");
  await redis.incrby("metrics:redis_success", 5);
  assert.deepEqual(await told(), [8, 7, 4, 8]);
});

Deno.test("a metric that Redis refuses to tell is missing, and why is an event", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const { sink, server } = served(pipeline);
  await using _server = server;
  await using _sink = sink;
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  const reasons: string[] = [];
  sink.events.on("scrapeFailed", ({ server, error }) => {
    reasons.push(`${server}: ${error.message}`);
  });
  await redis.call("ACL", "SETUSER", "default", "-memory");
  const text = await scrape(server);
  assert.match(reasons.join("\n"), /^redis: .*memory/i);
  assert.deepEqual(seriesOf(text, "writebehind_stream_bytes"), {});
  assert.equal(seriesOf(text, "writebehind_lag_events")[OF_TARGET], 1, "what is known is told");
});

Deno.test("a full stream is told, by the limits that its first writer has stored", async () => {
  await using pipeline = await testPipeline({ streams: { max_events: 2 } });
  const { redis, config } = pipeline;
  const { sink, server } = served(pipeline, pipeline.with({ streams: { max_events: 1000 } }));
  await using _server = server;
  await using _sink = sink;
  const ofStream = 'entity="session",partition="0"';
  for (const full of [0, 1]) {
    await insertDocument(redis, config, "session", { n: 1 }, `d${full}`);
    const text = await scrape(server);
    assert.equal(seriesOf(text, "writebehind_backpressure")[ofStream], full, text);
    assert.equal(seriesOf(text, "writebehind_stream_limit_events")[ofStream], 2);
    assert(seriesOf(text, "writebehind_stream_bytes")[ofStream]! > 0);
  }
});

Deno.test("a port that is taken is refused in one line", () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  assert.throws(() => serveMetrics({ port }), {
    name: "ConfigError",
    message:
      `Cannot serve metrics at 127.0.0.1:${port}: another process has taken it; choose another port by --metrics`,
  });
});
