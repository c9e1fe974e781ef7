import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { parse, stringify } from "yaml";
import { isInstalled } from "../support/programs.ts";
import { promtool } from "../support/prometheus.ts";
import { testFolder } from "../support/servers.ts";

const RULES = join(CHECKOUT, "ops/prometheus/alerts.yml");
const ignore = !isInstalled("promtool");

interface Rules {
  groups: { rules: { alert: string; labels: Record<string, string>; annotations?: unknown }[] }[];
}

const PARTITION = { entity: "session", partition: "0" };
const OF_TARGET = { ...PARTITION, target: "postgresql" };
const ofTarget = `{entity="session",partition="0",target="postgresql"}`;
const ofProcess = (process: string) =>
  `{entity="session",partition="0",target="postgresql",process="${process}"}`;

const ofState = (state: string) =>
  `writebehind_target_state{entity="session",partition="0",target="postgresql",state="${state}"}`;

const ofCache = (state: string) =>
  `writebehind_cache_state{entity="session",partition="0",state="${state}"}`;

/** What all series are where all is well, a value each 15 s for 20 minutes. Two sinks: one of them owns the partition. */
const WELL: Record<string, string> = {
  'up{job="writebehind",instance="a"}': "1x80",
  'up{job="writebehind",instance="b"}': "1x80",
  [`writebehind_sink_failures_in_a_row${ofProcess("1-a")}`]: "0x80",
  [`writebehind_sink_failures_in_a_row${ofProcess("2-b")}`]: "2x80",
  [`writebehind_lag_events${ofTarget}`]: "500x80",
  [`writebehind_lag_seconds${ofTarget}`]: "0.2x80",
  [`writebehind_applied_events_total${ofTarget}`]: "0+1000x80",
  [`writebehind_parked_events${ofTarget}`]: "0x80",
  [`writebehind_went_back_total${ofTarget}`]: "3x80",
  'writebehind_stream_events{entity="session",partition="0"}': "79x80",
  'writebehind_stream_limit_events{entity="session",partition="0"}': "100x80",
  'writebehind_stream_bytes{entity="session",partition="0"}': "79x80",
  'writebehind_stream_limit_bytes{entity="session",partition="0"}': "100x80",
  'writebehind_backpressure{entity="session",partition="0"}': "0x80",
  [`writebehind_sink_trims_failed_total${ofProcess("1-a")}`]: "1x80",
  [`writebehind_owned${ofTarget}`]: "1x80",
  [ofState("active")]: "1x80",
  [ofState("paused")]: "0x80",
  [ofState("filling")]: "0x80",
  // A cache fills its memory by design.
  'writebehind_redis_memory_bytes{node="r"}': "99x80",
  'writebehind_redis_memory_limit_bytes{node="r"}': "100x80",
  'writebehind_redis_keys{node="r"}': "1000x80",
  'writebehind_redis_evictable_keys{node="r"}': "800x80",
  [ofCache("noting")]: "0x80",
  [ofCache("on")]: "1x80",
  [ofCache("leaving")]: "0x80",
  'writebehind_server_up{server="redis"}': "1x80",
  'writebehind_server_up{server="target",target="postgresql"}': "1x80",
};

/** What is not well, and which alerts it raises, with their labels. `null`: there is no such series. */
const CASES: Record<
  string,
  { series: Record<string, string | null>; raises: Record<string, Record<string, string>> }
> = {
  "all is well": { series: {}, raises: {} },
  "attempts fail": {
    series: {
      [`writebehind_sink_failures_in_a_row${ofProcess("1-a")}`]: "0+1x80",
      // For three minutes.
      [`writebehind_applied_events_total${ofTarget}`]: "0+1000x68 68000x11",
    },
    raises: { WritebehindStuck: OF_TARGET },
  },
  "attempts fail, and nobody can say what waits": {
    series: {
      [`writebehind_sink_failures_in_a_row${ofProcess("1-a")}`]: "0+1x80",
      [`writebehind_applied_events_total${ofTarget}`]: null,
      [`writebehind_lag_events${ofTarget}`]: null,
    },
    raises: { WritebehindStuck: OF_TARGET },
  },
  "one of two sinks is cut off, and the other applies all": {
    series: { [`writebehind_sink_failures_in_a_row${ofProcess("1-a")}`]: "0+1x80" },
    raises: {},
  },
  "one of two sinks is cut off, and nothing is written": {
    series: {
      [`writebehind_sink_failures_in_a_row${ofProcess("1-a")}`]: "0+1x80",
      [`writebehind_applied_events_total${ofTarget}`]: "1000x80",
      [`writebehind_lag_events${ofTarget}`]: "0x80",
    },
    raises: {},
  },
  "events wait, and none is applied": {
    series: { [`writebehind_applied_events_total${ofTarget}`]: "1000x80" },
    raises: { WritebehindStuck: OF_TARGET },
  },
  "nothing is written": {
    series: {
      [`writebehind_applied_events_total${ofTarget}`]: "1000x80",
      [`writebehind_lag_events${ofTarget}`]: "0x80",
    },
    raises: {},
  },
  "the lag grows": {
    series: {
      [`writebehind_lag_events${ofTarget}`]: "0+100x80",
      [`writebehind_lag_seconds${ofTarget}`]: "0+2x80",
    },
    raises: { WritebehindLagGrows: OF_TARGET },
  },
  "the lag is large, and shrinks": {
    series: {
      [`writebehind_lag_events${ofTarget}`]: "10000-100x80",
      [`writebehind_lag_seconds${ofTarget}`]: "300-2x80",
    },
    raises: {},
  },
  "an event is parked": {
    series: { [`writebehind_parked_events${ofTarget}`]: "0x78 1x1" },
    raises: { WritebehindParked: OF_TARGET },
  },
  "the stream went back": {
    series: { [`writebehind_went_back_total${ofTarget}`]: "0x20 1x60" },
    raises: { WritebehindWentBack: OF_TARGET },
  },
  "the stream is nearly full of events": {
    series: { 'writebehind_stream_events{entity="session",partition="0"}': "81x80" },
    raises: { WritebehindStreamNearLimit: PARTITION },
  },
  "the stream is full of bytes": {
    series: {
      'writebehind_stream_bytes{entity="session",partition="0"}': "100x80",
      'writebehind_backpressure{entity="session",partition="0"}': "1x80",
    },
    raises: { WritebehindStreamNearLimit: PARTITION, WritebehindBackpressure: PARTITION },
  },
  "trims fail": {
    series: { [`writebehind_sink_trims_failed_total${ofProcess("1-a")}`]: "0+1x80" },
    raises: { WritebehindTrimsFail: OF_TARGET },
  },
  "a program has written that knows of no cache": {
    series: { [ofCache("on")]: "0x80", [ofCache("leaving")]: "1x80" },
    raises: { WritebehindCacheNotOn: { entity: "session", state: "leaving" } },
  },
  "the cache is just being turned on": {
    series: { [ofCache("on")]: "0x80", [ofCache("noting")]: "0x40 1x40" },
    raises: {},
  },
  "Redis is full of what may not go": {
    series: { 'writebehind_redis_evictable_keys{node="r"}': "190x80" },
    raises: { WritebehindCacheFull: { node: "r" } },
  },
  "little may go, and there is room": {
    series: {
      'writebehind_redis_memory_bytes{node="r"}': "90x80",
      'writebehind_redis_evictable_keys{node="r"}': "0x80",
    },
    raises: {},
  },
  "Redis has no limit": {
    series: {
      'writebehind_redis_memory_limit_bytes{node="r"}': null,
      'writebehind_redis_evictable_keys{node="r"}': "0x80",
    },
    raises: {},
  },
  "no sink has the partition": {
    series: { [`writebehind_owned${ofTarget}`]: "0x80" },
    raises: { WritebehindNoOwner: OF_TARGET },
  },
  ...Object.fromEntries(["paused", "filling"].map((state) => [`the target is ${state}`, {
    series: {
      [ofState("active")]: "0x80",
      [ofState(state)]: "1x80",
      [`writebehind_owned${ofTarget}`]: "0x80",
      [`writebehind_sink_failures_in_a_row${ofProcess("1-a")}`]: "0+1x80",
      [`writebehind_applied_events_total${ofTarget}`]: "1000x80",
      [`writebehind_lag_events${ofTarget}`]: "0+100x80",
      [`writebehind_lag_seconds${ofTarget}`]: "0+2x80",
    },
    raises: {},
  }])),
  "the target is away": {
    series: { 'writebehind_server_up{server="target",target="postgresql"}': "0x80" },
    raises: { WritebehindServerAway: { server: "target", target: "postgresql" } },
  },
  "one of two targets is away": {
    series: { 'writebehind_server_up{server="target",target="archive"}': "0x80" },
    raises: { WritebehindServerAway: { server: "target", target: "archive" } },
  },
  "Redis is away": {
    series: { 'writebehind_server_up{server="redis"}': "0x80" },
    raises: { WritebehindServerAway: { server: "redis" } },
  },
  "one of two sinks is silent": {
    series: { 'up{job="writebehind",instance="b"}': "0x80" },
    raises: { WritebehindSinkSilent: { job: "writebehind", instance: "b" } },
  },
  "no sink was ever found": {
    series: Object.fromEntries(Object.keys(WELL).map((series) => [series, null])),
    raises: { WritebehindMetricsSilent: {} },
  },
};

Deno.test({
  name:
    "promtool is content with the alert rules and the scrape's configuration (apt-get install prometheus)",
  ignore,
  async fn() {
    const { success, output } = await promtool([
      "check",
      "config",
      join(CHECKOUT, "ops/prometheus/prometheus.yml"),
    ]);
    assert(success, output);
    assert.match(output, /1 rule files found/);
  },
});

Deno.test({
  name: "each alert fires for what it is for, and for nothing else (apt-get install prometheus)",
  ignore,
  async fn() {
    const rules: Rules = parse(await Deno.readTextFile(RULES));
    const alerts = rules.groups.flatMap(({ rules }) => rules);
    // Their texts are for people; promtool would want each of them word by word.
    for (const alert of alerts) delete alert.annotations;
    const folder = testFolder("rules");
    await Deno.mkdir(folder);
    await Deno.writeTextFile(join(folder, "alerts.yml"), stringify(rules));
    const tests = Object.entries(CASES).map(([name, { series, raises }]) => ({
      name,
      interval: "15s",
      input_series: Object.entries({ ...WELL, ...series })
        .flatMap(([series, values]) => values === null ? [] : [{ series, values }]),
      alert_rule_test: alerts.map(({ alert, labels }) => ({
        eval_time: "20m",
        alertname: alert,
        exp_alerts: raises[alert] ? [{ exp_labels: { ...raises[alert], ...labels } }] : [],
      })),
    }));
    const path = join(folder, "test.yml");
    await Deno.writeTextFile(
      path,
      stringify({ rule_files: ["alerts.yml"], evaluation_interval: "15s", tests }),
    );
    const { success, output } = await promtool(["test", "rules", path]);
    assert(success, output);
    const raised = new Set(Object.values(CASES).flatMap(({ raises }) => Object.keys(raises)));
    assert.deepEqual([...raised].sort(), alerts.map(({ alert }) => alert).sort());
  },
});
