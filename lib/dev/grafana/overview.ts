/**
 * The overview: rate, errors, duration, utilisation and saturation, and the caches.
 * @module
 */

import { type Dashboard, RowBuilder } from "@grafana/grafana-foundation-sdk/dashboard";
import { labelVariable, series, stat, timeline } from "./panels.ts";
import { dashboard, durations, once, quantiles, RATE } from "./parts.ts";

/** The dashboard of all that runs. */
export function overview(): Dashboard {
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
      queries: { p99: quantiles("writebehind_freshness_seconds", of).p99 },
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
      queries: { "{{server}} {{target}}": "min by (server, target) (writebehind_server_up)" },
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
      queries: {
        "{{how}}": `sum by (how) (${
          once(`rate(writebehind_redis_keys_gone_total${RATE})`, "how, node")
        })`,
      },
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
