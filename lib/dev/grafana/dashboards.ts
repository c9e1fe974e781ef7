/**
 * The dashboards for Grafana: an overview by rate, errors, duration, utilisation and saturation; one partition; one
 * process. `deno task dashboards` writes them to ops/grafana/dashboards.
 */

import {
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
  RowBuilder,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { heatmap, labelVariable, series, stat, timeline } from "./panels.ts";

/** All of them, by the names of their files. */
export function dashboards(): Record<string, Dashboard> {
  const all = { overview: overview(), partition: partition(), process: processOf() };
  // Grafana would number them by itself, each time anew.
  for (const { panels } of Object.values(all)) {
    panels?.forEach((panel, index) => panel.id = index + 1);
  }
  return all;
}

/** What all have in common. */
function dashboard(uid: string, title: string, description: string): DashboardBuilder {
  return new DashboardBuilder(title).uid(`writebehind-${uid}`).description(description)
    .tags(["writebehind"]).refresh("10s").time({ from: "now-30m", to: "now" }).timezone("browser")
    .tooltip(DashboardCursorSync.Crosshair).editable()
    .link(
      new DashboardLinkBuilder("write-behind").type(DashboardLinkType.Dashboards)
        .tags(["writebehind"]).keepTime(true).includeVars(true),
    )
    .withVariable(
      new DatasourceVariableBuilder("datasource").label("datasource").type("prometheus"),
    );
}

const RATE = "[$__rate_interval]";

/** What the streams and the target say is told by each sink alike: their maximum is taken. */
const once = (expr: string, by = "entity, partition, target") => `max by (${by}) (${expr})`;

function quantiles(metric: string, selector: string): Record<string, string> {
  const rates = `sum by (le) (rate(${metric}_bucket{${selector}}${RATE}))`;
  return {
    p50: `histogram_quantile(0.5, ${rates})`,
    p99: `histogram_quantile(0.99, ${rates})`,
  };
}

/** The panels of freshness and batches, of whatever is selected. */
function durations(selector: string) {
  return [
    series({
      title: "Freshness",
      description: "From the write call to the row being visible.",
      unit: "s",
      queries: quantiles("writebehind_freshness_seconds", selector),
    }),
    heatmap({
      title: "Freshness, all of it",
      description: "Sampled events by how long they took.",
      unit: "s",
      queries: {
        "{{le}}":
          `sum by (le) (increase(writebehind_freshness_seconds_bucket{${selector}}${RATE}))`,
      },
    }),
    series({
      title: "Duration of a batch",
      description: "Time that the target took for a batch.",
      unit: "s",
      queries: quantiles("writebehind_batch_duration_seconds", selector),
    }),
    series({
      title: "Size of a batch",
      description: "Events of a batch. It grows with the load: that is how the target keeps up.",
      unit: "short",
      queries: quantiles("writebehind_batch_events", selector),
    }),
  ];
}

function overview(): Dashboard {
  const of = `entity=~"$entity"`;
  const rate = (metric: string) =>
    `sum(${once(`rate(writebehind_${metric}{${of}}${RATE})`)}) by (target)`;
  const builder = dashboard(
    "overview",
    "Write-behind: overview",
    "Rate, errors, duration; utilisation and saturation.",
  ).withVariable(labelVariable("entity", "writebehind_lag_events", { multi: true }))
    .withPanel(stat({
      title: "Written",
      description: "Events written a second.",
      unit: "ops",
      queries: { written: rate("written_events_total") },
    }))
    .withPanel(stat({
      title: "Applied",
      description: "Events that came to the target, a second.",
      unit: "ops",
      queries: { applied: rate("applied_events_total") },
    }))
    .withPanel(stat({
      title: "Lag",
      description: "Age of the oldest event that a target does not have.",
      unit: "s",
      queries: { lag: `max(writebehind_lag_seconds{${of}})` },
    }, 60))
    .withPanel(stat({
      title: "Freshness p99",
      description:
        "From the write call to the row being visible, all but the slowest in a hundred.",
      unit: "s",
      queries: { p99: quantiles("writebehind_freshness_seconds", of).p99! },
    }))
    .withPanel(stat({
      title: "Parked",
      description: "Events in the dead letter.",
      unit: "short",
      queries: { parked: `sum(${once(`writebehind_parked_events{${of}}`)})` },
    }, 1))
    .withPanel(stat({
      title: "Without a sink",
      description: "Partitions that no sink has.",
      unit: "short",
      queries: { partitions: `sum(1 - ${once(`writebehind_owned{${of}}`)})` },
    }, 1))
    .withRow(new RowBuilder("Rate"))
    .withPanel(series({
      title: "Written and applied",
      description: "Events a second. Where they part, the lag grows.",
      unit: "ops",
      queries: {
        "written {{target}}": rate("written_events_total"),
        "applied {{target}}": rate("applied_events_total"),
      },
    }))
    .withPanel(series({
      title: "Lag in events",
      description: "Events that the target does not have.",
      unit: "short",
      queries: { "{{entity}} {{partition}}": once(`writebehind_lag_events{${of}}`) },
    }))
    .withRow(new RowBuilder("Errors"))
    .withPanel(series({
      title: "Retries",
      description: "Attempts that failed and are made again, a second, by the kind of error.",
      unit: "ops",
      queries: { "{{kind}}": `sum by (kind) (rate(writebehind_sink_retries_total{${of}}${RATE}))` },
    }))
    .withPanel(series({
      title: "Parked, went back, not trimmed",
      description: "Each should be flat.",
      unit: "short",
      queries: {
        "parked": `sum(${once(`writebehind_parked_events{${of}}`)})`,
        "went back": `sum(${once(`writebehind_went_back_total{${of}}`)})`,
        "trims failed": `sum(writebehind_sink_trims_failed_total{${of}})`,
        "renewals failed": `sum(writebehind_sink_renewals_failed_total{${of}})`,
      },
    }))
    .withPanel(series({
      title: "As processes have counted",
      description: "The five counters. They are for people; what holds is written and applied.",
      unit: "ops",
      queries: {
        "{{side}} {{outcome}}": once(`rate(writebehind_events_total${RATE})`, "side, outcome"),
      },
    }))
    .withPanel(series({
      title: "Servers",
      description: "1 where a server answers the sinks.",
      unit: "short",
      queries: { "{{server}}": "min by (server) (writebehind_server_up)" },
    }))
    .withRow(new RowBuilder("Duration"));
  for (const panel of durations(of)) builder.withPanel(panel);
  builder.withRow(new RowBuilder("Utilisation and saturation"))
    .withPanel(series({
      title: "Lag in seconds",
      description: "Age of the oldest event that the target does not have.",
      unit: "s",
      queries: { "{{entity}} {{partition}}": once(`writebehind_lag_seconds{${of}}`) },
    }))
    .withPanel(series({
      title: "How full the streams are",
      description: "At 100 % writers are refused.",
      unit: "percentunit",
      queries: {
        "{{entity}} {{partition}} events": once(
          `writebehind_stream_events{${of}} / writebehind_stream_limit_events{${of}}`,
          "entity, partition",
        ),
        "{{entity}} {{partition}} bytes": once(
          `writebehind_stream_bytes{${of}} / writebehind_stream_limit_bytes{${of}}`,
          "entity, partition",
        ),
      },
    }))
    .withPanel(series({
      title: "Processor",
      description: "Cores that a sink keeps busy.",
      unit: "short",
      queries: { "{{instance}}": `rate(process_cpu_seconds_total{job="writebehind"}${RATE})` },
    }))
    .withPanel(series({
      title: "Memory",
      description: "Of each sink's process.",
      unit: "bytes",
      queries: { "{{instance}}": `process_resident_memory_bytes{job="writebehind"}` },
    }));
  builder.withRow(new RowBuilder("Cache, of entities that have one"));
  for (const panel of cache(of)) builder.withPanel(panel);
  return builder.build();
}

/** The panels of caches, of whatever entities are selected. */
function cache(of: string) {
  const reads = (outcome: string) =>
    `sum(${
      once(
        `rate(writebehind_cache_reads_total{${of},outcome=~"${outcome}"}${RATE})`,
        "entity, outcome",
      )
    })`;
  return [
    series({
      title: "Hits and misses",
      description: "Documents that readers found in Redis, and did not, a second.",
      unit: "ops",
      queries: { hits: reads("hit"), misses: reads("miss") },
    }),
    series({
      title: "Share of hits",
      description: "None while nobody reads.",
      unit: "percentunit",
      queries: { hits: `${reads("hit")} / ${reads("hit|miss")}` },
    }),
    series({
      title: "Documents that wait for the target",
      description: "They are not evicted, since the target lacks their last event.",
      unit: "short",
      queries: {
        "{{entity}}": `sum by (entity) (${
          once(`writebehind_cache_pending_documents{${of}}`, "entity, partition")
        })`,
      },
    }),
    series({
      title: "Evicted and expired",
      description: "Keys of all of Redis that went, a second.",
      unit: "ops",
      queries: { "{{how}}": once(`rate(writebehind_redis_keys_gone_total${RATE})`, "how") },
    }),
    series({
      title: "Memory of Redis",
      description: "At its limit it evicts what it may, and refuses writes where that is nothing.",
      unit: "bytes",
      queries: {
        "{{node}}": once("writebehind_redis_memory_bytes", "node"),
        "limit of {{node}}": once("writebehind_redis_memory_limit_bytes", "node"),
      },
    }),
    series({
      title: "Keys of Redis",
      description: "All, and those that it may evict.",
      unit: "short",
      queries: {
        "{{node}}": once("writebehind_redis_keys", "node"),
        "evictable of {{node}}": once("writebehind_redis_evictable_keys", "node"),
      },
    }),
    timeline({
      title: "State of the cache",
      description: "Nothing is evicted unless it is on.",
      unit: "short",
      queries: {
        "{{entity}} {{partition}} {{state}}": once(
          `writebehind_cache_state{${of}}`,
          "entity, partition, state",
        ) + " == 1",
      },
    }),
  ];
}

function partition(): Dashboard {
  const ofStream = `entity="$entity",partition="$partition"`;
  const builder = dashboard(
    "partition",
    "Write-behind: one partition",
    "One stream, and what is carried on from it.",
  ).withVariable(labelVariable("entity", "writebehind_lag_events", { multi: false }))
    .withVariable(labelVariable("partition", "writebehind_lag_events", { multi: false }))
    .withPanel(series({
      title: "Written and applied",
      description: "Events a second. Where they part, the lag grows.",
      unit: "ops",
      queries: {
        "written {{target}}": once(`rate(writebehind_written_events_total{${ofStream}}${RATE})`),
        "applied {{target}}": once(`rate(writebehind_applied_events_total{${ofStream}}${RATE})`),
      },
    }))
    .withPanel(series({
      title: "Lag in events",
      description: "Events that the target does not have, and entries that the stream holds.",
      unit: "short",
      queries: {
        "lag {{target}}": once(`writebehind_lag_events{${ofStream}}`),
        "in the stream": once(`writebehind_stream_events{${ofStream}}`, "entity, partition"),
      },
    }))
    .withPanel(series({
      title: "Lag in seconds",
      description: "Age of the oldest event that the target does not have.",
      unit: "s",
      queries: { "{{target}}": once(`writebehind_lag_seconds{${ofStream}}`) },
    }))
    .withPanel(series({
      title: "Parked, went back",
      description: "Each should be flat.",
      unit: "short",
      queries: {
        "parked {{target}}": once(`writebehind_parked_events{${ofStream}}`),
        "went back {{target}}": once(`writebehind_went_back_total{${ofStream}}`),
        "writers refused": once(`writebehind_backpressure{${ofStream}}`, "entity, partition"),
      },
    }))
    .withRow(new RowBuilder("Who has it"))
    .withPanel(timeline({
      title: "State in each sink",
      description: "What each sink does with the partition.",
      unit: "short",
      queries: { "{{process}} {{state}}": `writebehind_sink_state{${ofStream}} == 1` },
    }))
    .withPanel(series({
      title: "Owned, and the lease",
      description: "Seconds until the lease ends unless renewed, and since it was taken.",
      unit: "s",
      queries: {
        "owned {{target}}": once(`writebehind_owned{${ofStream}}`),
        "age {{process}}": `writebehind_sink_lease_age_seconds{${ofStream}}`,
      },
    }))
    .withPanel(series({
      title: "Failures in a row",
      description: "From max_retry_attempts (3) on, status calls the partition stuck.",
      unit: "short",
      queries: { "{{process}}": `writebehind_sink_failures_in_a_row{${ofStream}}` },
    }))
    .withRow(new RowBuilder("Duration"));
  for (const panel of durations(ofStream)) builder.withPanel(panel);
  return builder.build();
}

function processOf(): Dashboard {
  const of = `process=~"$process"`;
  const rate = (metric: string) =>
    `sum by (process) (rate(writebehind_sink_${metric}{${of}}${RATE}))`;
  const builder = dashboard(
    "process",
    "Write-behind: one process",
    "What one sink has counted since it began.",
  ).withVariable(labelVariable("process", "writebehind_sink_state", { multi: true }))
    .withPanel(series({
      title: "Events and rows",
      description: "A second. Where rows are fewer, several events of one document became one row.",
      unit: "ops",
      queries: {
        "events {{process}}": rate("events_total"),
        "rows {{process}}": rate("rows_total"),
        "nothing to write {{process}}": rate("noops_total"),
        "parked {{process}}": rate("parked_total"),
      },
    }))
    .withPanel(series({
      title: "Retries",
      description: "Attempts that failed and are made again, a second, by the kind of error.",
      unit: "ops",
      queries: {
        "{{process}} {{kind}}":
          `sum by (process, kind) (rate(writebehind_sink_retries_total{${of}}${RATE}))`,
        "{{process}} batch was too much": rate("halved_total"),
      },
    }))
    .withPanel(timeline({
      title: "State of each partition",
      description: "What the process does with each partition.",
      unit: "short",
      queries: { "{{entity}} {{partition}} {{state}}": `writebehind_sink_state{${of}} == 1` },
    }))
    .withPanel(series({
      title: "Processor",
      description: "Cores that a sink keeps busy.",
      unit: "short",
      queries: {
        "{{process}}": `sum by (process) (
  rate(process_cpu_seconds_total{job="writebehind"}${RATE})
  * on (instance) group_right max by (instance, process) (writebehind_sink_state{${of}} * 0 + 1)
)`,
      },
    }))
    .withPanel(series({
      title: "Memory",
      description: "Of each sink's process.",
      unit: "bytes",
      queries: {
        "{{process}}": `sum by (process) (
  process_resident_memory_bytes{job="writebehind"}
  * on (instance) group_right max by (instance, process) (writebehind_sink_state{${of}} * 0 + 1)
)`,
      },
    }))
    .withPanel(series({
      title: "What runs",
      description: "Versions of this project and of Deno, and since when, in seconds.",
      unit: "s",
      queries: {
        "{{instance}} {{version}}, Deno {{deno}}":
          `(time() - process_start_time_seconds{job="writebehind"}) * on (instance) group_right writebehind_build_info`,
      },
    }))
    .withRow(new RowBuilder("Duration"));
  for (const panel of durations(of)) builder.withPanel(panel);
  return builder.build();
}
