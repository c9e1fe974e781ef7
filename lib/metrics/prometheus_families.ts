/**
 * What is watched, and how its metrics are made, and emptied together.
 * @module
 */

import prometheus from "prom-client";
import type { Config } from "../config/load.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { Target } from "../targets/target.ts";

/** What is watched. */
export interface Watched {
  redis: RedisConnection;
  target: Target;
  config: Config;
  /** its name */
  entity: string;
}

/** The labels of what a target says of a stream. */
export const OF_TARGET = ["entity", "partition", "target"];
/** The labels of what Redis says of a stream. */
export const OF_STREAM = ["entity", "partition"];

/** The metrics of one registry; the names of all begin with `writebehind_`. */
export class Families {
  #registry: prometheus.Registry;
  #all: (prometheus.Gauge | prometheus.Counter)[] = [];

  constructor(registry: prometheus.Registry) {
    this.#registry = registry;
  }

  /** @param aggregator how those of several targets are put together, where it is not as usual */
  gauge(
    name: string,
    help: string,
    labelNames: string[],
    aggregator?: prometheus.Aggregator,
  ): prometheus.Gauge {
    return this.#kept(
      new prometheus.Gauge(this.#options(name, help, labelNames, aggregator)),
    );
  }

  counter(name: string, help: string, labelNames: string[]): prometheus.Counter {
    return this.#kept(new prometheus.Counter(this.#options(name, help, labelNames)));
  }

  /** Of a server that is away nothing is known: no old value may stand for it. */
  reset(): void {
    for (const metric of this.#all) metric.reset();
  }

  #kept<Metric extends prometheus.Gauge | prometheus.Counter>(metric: Metric): Metric {
    this.#all.push(metric);
    return metric;
  }

  // Of several targets, what is not the target's own is said once: where one has read it, and the others have not.
  #options(
    name: string,
    help: string,
    labelNames: string[],
    aggregator: prometheus.Aggregator = labelNames === OF_TARGET ? "sum" : "max",
  ) {
    const registers = [this.#registry];
    return { name: `writebehind_${name}`, help, labelNames, registers, aggregator };
  }
}

/** Shows which servers answer. */
export function serverUp(families: Families): prometheus.Gauge {
  const help =
    "1 where the server answered this scrape, else 0; 0 for a target that is not open yet.";
  return families.gauge("server_up", help, ["server", "target"], "min");
}
