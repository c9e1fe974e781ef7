/** Debian's Prometheus, as it is found on this machine: `apt-get install prometheus`. */

import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { parse, stringify } from "yaml";
import { testFolder, waitFor } from "./servers.ts";

const OPS = join(CHECKOUT, "ops/prometheus");

/**
 * Runs promtool.
 * @param input its standard input
 * @returns what it has printed, and whether it is content
 */
export async function promtool(
  args: string[],
  input = "",
): Promise<{ success: boolean; output: string }> {
  const child = new Deno.Command("promtool", {
    args,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { success, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

/** The values of a metric in a scrape, by its labels as they stand there (`""` for none). */
export function seriesOf(scrape: string, name: string): Record<string, number> {
  const lines = scrape.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, "gm"));
  return Object.fromEntries([...lines].map(([, labels, value]) => [labels ?? "", Number(value)]));
}

/** A Prometheus that runs. */
export interface RunningPrometheus extends AsyncDisposable {
  /** Asks its HTTP API. */
  ask<Answer>(path: string, parameters?: Record<string, string>): Promise<Answer>;
}

/**
 * Starts a Prometheus on a port and in a folder of its own, with the project's rules.
 * @param target the address to scrape, as `host:port`
 */
export async function startPrometheus(target: string): Promise<RunningPrometheus> {
  const config = parse(await Deno.readTextFile(join(OPS, "prometheus.yml")));
  config.global = { scrape_interval: "500ms", evaluation_interval: "500ms" };
  config.rule_files = [join(OPS, "alerts.yml")];
  delete config.scrape_configs[0].dns_sd_configs;
  config.scrape_configs[0].static_configs = [{ targets: [target] }];
  const folder = testFolder("prometheus");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(join(folder, "prometheus.yml"), stringify(config));
  const address = `127.0.0.1:${freePort()}`;
  const child = new Deno.Command("prometheus", {
    args: [
      `--config.file=${join(folder, "prometheus.yml")}`,
      `--storage.tsdb.path=${join(folder, "data")}`,
      `--web.listen-address=${address}`,
    ],
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const said = new Response(child.stderr).text();
  let ended = false;
  void child.status.then(() => ended = true);
  const stop = async () => {
    if (!ended) child.kill("SIGKILL");
    await child.status;
    return await said;
  };
  try {
    await waitFor(async () => {
      if (ended) throw new Error(await said);
      const response = await fetch(`http://${address}/-/ready`);
      await response.body?.cancel();
      return response.ok;
    }, { what: "Prometheus to be ready", deadlineMs: 20_000 });
  } catch (error) {
    throw new Error(await stop(), { cause: error });
  }
  return {
    async ask(path, parameters = {}) {
      const response = await fetch(
        `http://${address}/api/v1/${path}?${new URLSearchParams(parameters)}`,
      );
      const answer = await response.json();
      if (answer.status !== "success") throw new Error(`${path}: ${JSON.stringify(answer)}`);
      return answer.data;
    },
    async [Symbol.asyncDispose]() {
      await stop();
    },
  };
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (listener.addr as Deno.NetAddr).port;
}
