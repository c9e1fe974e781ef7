/**
 * One stream, and what is carried on from it.
 * @module
 */

import { type Dashboard, RowBuilder } from "@grafana/grafana-foundation-sdk/dashboard";
import { labelVariable, series, timeline } from "./panels.ts";
import { dashboard, durations, once, RATE } from "./parts.ts";

/** The dashboard of one partition. */
export function partition(): Dashboard {
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
