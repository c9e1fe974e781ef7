import assert from "node:assert/strict";
import { insertDocument, readByIds } from "writebehind";
import { dashboards } from "writebehind/dev/grafana/dashboards.ts";
import { SESSION } from "../support/cached.ts";
import { testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { isInstalled } from "../support/programs.ts";
import { type RunningPrometheus, startPrometheus } from "../support/prometheus.ts";
import { waitFor } from "../support/servers.ts";

/** A panel of a dashboard, as Grafana reads it. */
interface PanelJson {
  title?: string;
  targets?: { expr: string }[];
}

/** Every query of every dashboard, with what Grafana would put for its variables. */
function queries(): Map<string, string> {
  const found = new Map<string, string>();
  for (const [name, { panels = [] }] of Object.entries(dashboards())) {
    for (const { title, targets = [] } of panels as PanelJson[]) {
      for (const { expr } of targets) {
        const asked = expr.replaceAll("$__rate_interval", "5s").replaceAll("$entity", "session")
          .replaceAll("$partition", "0").replaceAll("$process", ".*");
        assert(!asked.includes("$"), `${name}: ${asked}`);
        found.set(`${name}: ${title}: ${expr}`, asked);
      }
    }
  }
  return found;
}

/** Whether a query gives data now: a series whose value is a number. */
async function hasData(prometheus: RunningPrometheus, query: string): Promise<boolean> {
  const { result } = await prometheus.ask<{ result: { value: [number, string] }[] }>("query", {
    query,
  });
  return result.some(({ value: [, value] }) => Number.isFinite(Number(value)));
}

Deno.test({
  name:
    "a Prometheus scrapes a sink; every query of the dashboards gives data, every rule can be evaluated (apt-get install prometheus)",
  ignore: !isInstalled("prometheus"),
  async fn() {
    const entities = [{ ...SESSION, cache: { enabled: true } }];
    await using pipeline = await testPipeline({ entities });
    const { redis, config } = pipeline;
    await redis.config("SET", "maxmemory", "1gb");
    const file = await configFile({ entities });
    const args = ["sink", "--config", file, "--metrics", "0"];
    await using sink = startTask(args, environmentOf(config));
    const address = await waitFor(
      () => sink.output().match(/metrics for Prometheus at http:\/\/(\S+)\/metrics/)?.[1],
      { what: "the address of /metrics", deadlineMs: 20_000 },
    );
    await using prometheus = await startPrometheus(address);
    const missing = queries();
    assert(missing.size > 40, `${missing.size} queries`);
    let written = 0;
    await waitFor(async () => {
      for (let n = 0; n < 10; n++) {
        await insertDocument(redis, config, "session", { n }, `d${written++}`);
      }
      await readByIds(redis, config, "session", [`d${written - 1}`, "none"]);
      for (const [name, query] of missing) {
        if (await hasData(prometheus, query)) missing.delete(name);
      }
      return missing.size === 0;
    }, { what: "data", deadlineMs: 20_000 }).catch((error) => {
      throw new Error(`no data for:\n${[...missing.keys()].join("\n")}`, { cause: error });
    });
    const { groups } = await prometheus.ask<
      { groups: { rules: { name: string; query: string; health: string; state: string }[] }[] }
    >("rules");
    const rules = groups.flatMap(({ rules }) => rules);
    assert(rules.length > 0);
    const names = new Set(await prometheus.ask<string[]>("label/__name__/values"));
    for (const { name, query, health, state } of rules) {
      assert.equal(health, "ok", name);
      assert.notEqual(state, "firing", name);
      for (const [metric] of query.matchAll(/writebehind_\w+/g)) {
        assert(names.has(metric), `${name} asks for ${metric}, which no sink tells`);
      }
    }
  },
});
