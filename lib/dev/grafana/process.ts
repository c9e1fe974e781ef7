/**
 * What one sink has counted since it began.
 * @module
 */

import { type Dashboard, RowBuilder } from "@grafana/grafana-foundation-sdk/dashboard";
import { labelVariable, series, timeline } from "./panels.ts";
import { dashboard, durations, RATE } from "./parts.ts";

/** The dashboard of one process. */
export function processOf(): Dashboard {
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
