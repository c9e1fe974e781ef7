/**
 * The dashboards for Grafana: `deno task dashboards` writes them to ops/grafana/dashboards.
 * @module
 */

import type { Dashboard } from "@grafana/grafana-foundation-sdk/dashboard";
import { overview } from "./overview.ts";
import { partition } from "./partition.ts";
import { processOf } from "./process.ts";

/** All of them, by the names of their files. */
export function dashboards(): Record<string, Dashboard> {
  const all = { overview: overview(), partition: partition(), process: processOf() };
  // Grafana would number them by itself, each time anew.
  for (const { panels } of Object.values(all)) {
    panels?.forEach((panel, index) => panel.id = index + 1);
  }
  return all;
}
