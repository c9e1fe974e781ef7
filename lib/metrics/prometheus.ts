/**
 * The pipeline's numbers for Prometheus, over HTTP.
 * @module
 */

import prometheus from "prom-client";
import { ConfigError, reasonOf } from "../core/errors.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { loadMetrics } from "./counters.ts";
import type { Sampler } from "./sampler.ts";

/** A running endpoint. */
export interface MetricsServer extends AsyncDisposable {
  /** where to scrape it, such as `http://127.0.0.1:9464/metrics` */
  readonly url: string;
}

/**
 * Serves `/metrics` on loopback.
 * @param sampler takes a sample for each scrape
 * @param port 0 takes a free one
 * @throws {ConfigError} where the port is taken, or may not be used
 */
export function serveMetrics(
  redis: RedisConnection,
  sampler: Sampler,
  port: number,
): MetricsServer {
  const registry = new prometheus.Registry();
  const gauge = (name: string, help: string, labelNames: string[] = []) =>
    new prometheus.Gauge({ name: `writebehind_${name}`, help, labelNames, registers: [registry] });
  const lagEvents = gauge("lag_events", "Events that the target is behind.");
  const lagSeconds = gauge("lag_seconds", "Age of the oldest event that the target does not have.");
  const freshness = gauge(
    "freshness_seconds",
    "From the write call to the row being visible, of recent events.",
    ["quantile"],
  );
  const events = new prometheus.Counter({
    name: "writebehind_events_total",
    help: "Events by side (redis: written, postgres: applied) and outcome.",
    labelNames: ["side", "outcome"],
    registers: [registry],
  });

  const scrape = async (): Promise<string> => {
    const sample = await sampler.sample();
    lagEvents.set(sample.lagEvents);
    lagSeconds.set(sample.lagSeconds);
    freshness.reset();
    const { freshnessP50Ms, freshnessP99Ms } = sample;
    if (freshnessP50Ms !== null) freshness.set({ quantile: "0.5" }, freshnessP50Ms / 1000);
    if (freshnessP99Ms !== null) freshness.set({ quantile: "0.99" }, freshnessP99Ms / 1000);
    // The counters live in Redis, for all processes; Prometheus gets their present values.
    events.reset();
    for (const [key, value] of Object.entries(await loadMetrics(redis))) {
      const [side, outcome] = key.replace("metrics:", "").split("_") as [string, string];
      events.inc({ side, outcome }, value);
    }
    return await registry.metrics();
  };
  const server = listening(
    port,
    async (request) => {
      if (new URL(request.url).pathname !== "/metrics") {
        return new Response("see /metrics\n", { status: 404 });
      }
      try {
        return new Response(await scrape(), { headers: { "content-type": registry.contentType } });
      } catch (error) {
        return new Response(`Redis does not answer: ${reasonOf(error)}\n`, { status: 503 });
      }
    },
  );
  return {
    url: `http://127.0.0.1:${server.addr.port}/metrics`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

function listening(port: number, handler: Deno.ServeHandler): Deno.HttpServer<Deno.NetAddr> {
  try {
    return Deno.serve({ hostname: "127.0.0.1", port, onListen: () => {} }, handler);
  } catch (error) {
    const why = error instanceof Deno.errors.AddrInUse
      ? "another process has taken it"
      : reasonOf(error);
    throw new ConfigError(
      `Cannot serve metrics at 127.0.0.1:${port}: ${why}; choose another port by --metrics`,
      { cause: error },
    );
  }
}
