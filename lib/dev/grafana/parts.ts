/**
 * What the dashboards have in common: their frame, ways to ask, and the panels that two of them have.
 * @module
 */

import {
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DashboardLinkType,
  DatasourceVariableBuilder,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { heatmap, series } from "./panels.ts";

/** A dashboard without panels. */
export function dashboard(uid: string, title: string, description: string): DashboardBuilder {
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

export const RATE = "[$__rate_interval]";

/** What the streams and the target say is told by each sink alike: their maximum is taken. */
export const once = (expr: string, by = "entity, partition, target") => `max by (${by}) (${expr})`;

/** The queries of a histogram's median, and of all but its slowest hundredth. */
export function quantiles(metric: string, selector: string): { p50: string; p99: string } {
  const rates = `sum by (le) (rate(${metric}_bucket{${selector}}${RATE}))`;
  return {
    p50: `histogram_quantile(0.5, ${rates})`,
    p99: `histogram_quantile(0.99, ${rates})`,
  };
}

/** The panels of freshness and batches, of whatever is selected. */
export function durations(selector: string) {
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
