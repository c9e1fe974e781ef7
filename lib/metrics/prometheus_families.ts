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

/**
 * A counter of what servers keep. They may lose some of it, as an older replica has that is promoted; Prometheus takes
 * each fall for a start from 0, and its `rate` would add the whole number. So it goes on from what it has told.
 */
export class LastingCounter {
  #counter: prometheus.Counter;
  /** by their labels */
  #last = new Map<string, { kept: number; told: number; of: number }>();

  constructor(counter: prometheus.Counter) {
    this.#counter = counter;
  }

  /**
   * Tells a number that was read.
   * @param of what it is one of, such as 4 partitions: of another number it is another's, and begins anew
   */
  tell(labels: Record<string, string>, kept: number, of = 0): void {
    const key = JSON.stringify(labels);
    const last = this.#last.get(key);
    const told = last?.of === of ? last.told + Math.max(0, kept - last.kept) : kept;
    this.#last.set(key, { kept, told, of });
    this.#counter.inc(labels, told);
  }

  /** Tells nothing until it is read again. */
  reset(): void {
    this.#counter.reset();
  }
}

/** The metrics of one registry; the names of all begin with `writebehind_`. */
export class Families {
  #registry: prometheus.Registry;
  #all: { reset(): void }[] = [];

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

  /** Of what begins at 0 whenever its server does. */
  counter(name: string, help: string, labelNames: string[]): prometheus.Counter {
    return this.#kept(new prometheus.Counter(this.#options(name, help, labelNames)));
  }

  /** Of what is kept also where its server ends. */
  lasting(name: string, help: string, labelNames: string[]): LastingCounter {
    const counter = new prometheus.Counter(this.#options(name, help, labelNames));
    return this.#kept(new LastingCounter(counter));
  }

  /** Of a server that is away nothing is known: no old value may stand for it. */
  reset(): void {
    for (const metric of this.#all) metric.reset();
  }

  #kept<Metric extends { reset(): void }>(metric: Metric): Metric {
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
