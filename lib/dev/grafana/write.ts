/** Writes the dashboards to the folder that Grafana is provisioned from: the task `dashboards`. */

import { Command } from "commander";
import { join } from "node:path";
import { CHECKOUT } from "../../config/checkout.ts";
import { ending } from "../../core/ending.ts";
import { dashboards } from "./dashboards.ts";

/** Where they are. */
export const DASHBOARDS: string = join(CHECKOUT, "ops/grafana/dashboards");

/** Each file's text, by its path. */
export function dashboardFiles(): Map<string, string> {
  return new Map(
    Object.entries(dashboards()).map(([name, dashboard]) => [
      join(DASHBOARDS, `${name}.json`),
      `${JSON.stringify(dashboard, null, 2)}\n`,
    ]),
  );
}

if (import.meta.main) Deno.exit(await ending(write, console.error));

async function write(): Promise<void> {
  new Command("deno task dashboards")
    .description("write Grafana's dashboards anew from their code")
    .parse(Deno.args, { from: "user" });
  for (const [path, text] of dashboardFiles()) {
    await Deno.writeTextFile(path, text);
    console.log(path);
  }
}
