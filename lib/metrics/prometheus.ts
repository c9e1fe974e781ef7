/**
 * The pipeline's numbers for Prometheus, over HTTP.
 * @module
 */

import prometheus from "prom-client";
import denoJson from "../../deno.json" with { type: "json" };
import process from "node:process";
import { ConfigError, reasonOf } from "../core/errors.ts";
import { OncePerMinute } from "../core/events.ts";
import { Families, serverUp, type Watched } from "./prometheus_families.ts";
import { pipelineMetrics } from "./prometheus_pipeline.ts";
import { sinkMetrics } from "./prometheus_sink.ts";
import type { RedisWriteBehind } from "../sink/sink.ts";

/** A running endpoint. */
export interface MetricsServer extends AsyncDisposable {
  /** where to scrape it, such as `http://127.0.0.1:9464/metrics` */
  readonly url: string;
  /** From now on also tells of a target and the sink that carries events on to it: as soon as the sink is made. */
  watch(watched: Watched, sink: RedisWriteBehind): void;
}

/** Where to serve. */
export interface MetricsAddress {
  /** an address of this machine; by default loopback, which no other machine reaches */
  hostname?: string;
  /** 0 takes a free one */
  port: number;
}

/**
 * Serves `/metrics`: what the streams and the targets say of an entity, read at each scrape, and what the sinks of it
 * have counted. It answers also while a server is away, without what that one would say. `/healthz` answers `ok`.
 * @param targets those that are to be watched: until one is, it could not be opened, and is told as away
 * @throws {ConfigError} where the port is taken, or may not be used
 */
export function serveMetrics(
  { hostname = "127.0.0.1", port }: MetricsAddress,
  targets: readonly string[] = [],
): MetricsServer {
  const own = new prometheus.Registry();
  processMetrics(own);
  const up = serverUp(new Families(own));
  const unopened = new Set(targets);
  const watching: Watching[] = [];
  const scrape = async (): Promise<string> => {
    await Promise.all(watching.map(({ update }) => update()));
    up.reset();
    for (const target of unopened) up.set({ server: "target", target }, 0);
    const registries = [own, ...watching.map(({ registry }) => registry)];
    const read = await Promise.all(registries.map((registry) => registry.getMetricsAsJSON()));
    return await prometheus.AggregatorRegistry.aggregate(read).metrics();
  };
  // Scrapes at the same time share one reading.
  let scraping: Promise<string> | undefined;
  const server = listening(hostname, port, async (request) => {
    // A request may name a whole address, which need not be one.
    const pathname = URL.parse(request.url)?.pathname;
    if (pathname === "/healthz") return new Response("ok\n");
    if (pathname !== "/metrics") return new Response("see /metrics\n", { status: 404 });
    const text = await (scraping ??= scrape().finally(() => scraping = undefined));
    return new Response(text, { headers: { "content-type": own.contentType } });
  });
  const { addr } = server;
  const host = addr.hostname.includes(":") ? `[${addr.hostname}]` : addr.hostname;
  return {
    url: `http://${host}:${addr.port}/metrics`,
    watch(watched, sink) {
      watching.push(watch(watched, sink));
      unopened.delete(watched.target.describe().name);
    },
    async [Symbol.asyncDispose]() {
      for (const { end } of watching) end();
      await server.shutdown();
    },
  };
}

/** A target that is watched. */
interface Watching {
  registry: prometheus.Registry;
  /** reads it anew; never rejects */
  update: () => Promise<void>;
  /** ends the counting */
  end: () => void;
}

function watch(watched: Watched, sink: RedisWriteBehind): Watching {
  const registry = new prometheus.Registry();
  const reports = new OncePerMinute();
  const update = pipelineMetrics(registry, watched, (server, error) => {
    if (error === null) reports.over(server);
    else if (reports.allows(server)) {
      sink.events.emit("scrapeFailed", { entity: watched.entity, server, error });
    }
  });
  return { registry, update, end: sinkMetrics(registry, watched, sink) };
}

/** What it runs, and what it takes of the machine. */
function processMetrics(registry: prometheus.Registry): void {
  const registers = [registry];
  new prometheus.Gauge({
    name: "writebehind_build_info",
    help: "Always 1; what runs is in its labels.",
    labelNames: ["version", "deno"],
    registers,
  }).set({ version: denoJson.version, deno: Deno.version.deno }, 1);
  new prometheus.Gauge({
    name: "process_resident_memory_bytes",
    help: "Memory of the process.",
    registers,
    collect() {
      this.set(Deno.memoryUsage().rss);
    },
  });
  new prometheus.Gauge({
    name: "process_start_time_seconds",
    help: "When the process began, since 1970.",
    registers,
  }).set(performance.timeOrigin / 1000);
  new prometheus.Counter({
    name: "process_cpu_seconds_total",
    help: "Time of the processor that the process took.",
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
}

function listening(
  hostname: string,
  port: number,
  handler: Deno.ServeHandler,
): Deno.HttpServer<Deno.NetAddr> {
  try {
    return Deno.serve({ hostname, port, onListen: () => {} }, handler);
  } catch (error) {
    const why = error instanceof Deno.errors.AddrInUse
      ? "another process has taken it"
      : reasonOf(error);
    throw new ConfigError(
      `Cannot serve metrics at ${hostname}:${port}: ${why}; choose another port by --metrics`,
      { cause: error },
    );
  }
}
