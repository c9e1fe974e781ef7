/**
 * What one sink has counted since it began, as metrics.
 * @module
 */

import prometheus from "prom-client";
import type { ErrorKind } from "../core/error_kinds.ts";
import type { Place } from "../core/events.ts";
import { partitionsOf } from "../redis/keys.ts";
import type { PartitionState } from "../sink/report.ts";
import type { RedisWriteBehind, SinkStatus } from "../sink/sink.ts";
import type { Watched } from "./prometheus_families.ts";

/** From 1 ms to 5 min: what a user waits for, and what an outage makes of it. */
const FRESHNESS_BUCKETS = [
  ...[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5],
  ...[1, 2.5, 5, 10, 30, 60, 300],
];
/** From 1 ms to the 30 s after which a batch is given up. */
const DURATION_BUCKETS = [
  ...[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5],
  ...[1, 2.5, 5, 10, 30],
];
/** Up to the largest batch. */
const SIZE_BUCKETS = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000];

// The types tell when one is missing.
const ERROR_KINDS = Object.keys(
  {
    transient: 0,
    chance: 0,
    document: 0,
    related: 0,
    too_large: 0,
    configuration: 0,
  } satisfies Record<
    ErrorKind,
    0
  >,
);
const STATES = Object.keys(
  { idle: 0, owner: 0, standby: 0, retrying: 0, paused: 0 } satisfies Record<PartitionState, 0>,
);

type Labels = Record<"entity" | "partition" | "target" | "process", string>;
type LabelsOf = (of: Pick<Place, "partition">) => Labels;

/** The metrics of one registry, each of a sink's partition. */
class SinkFamilies {
  #registers: prometheus.Registry[];

  constructor(registry: prometheus.Registry) {
    this.#registers = [registry];
  }

  options(name: string, help: string, more: string[] = []) {
    return {
      name: `writebehind_${name}`,
      help,
      labelNames: ["entity", "partition", "target", "process", ...more],
      registers: this.#registers,
    };
  }

  counter(...of: Parameters<SinkFamilies["options"]>): prometheus.Counter {
    return new prometheus.Counter(this.options(...of));
  }

  histogram(buckets: number[], name: string, help: string): prometheus.Histogram {
    return new prometheus.Histogram({ ...this.options(name, help), buckets });
  }
}

/**
 * Registers the metrics, and counts what the sink reports.
 * @returns ends the counting
 */
export function sinkMetrics(
  registry: prometheus.Registry,
  { config, entity, target }: Watched,
  sink: RedisWriteBehind,
): () => void {
  const families = new SinkFamilies(registry);
  const { process } = sink;
  const { name } = target.describe();
  const labelsOf: LabelsOf = ({ partition }) => ({
    entity,
    partition: String(partition),
    target: name,
    process,
  });
  showStatus(families, sink, labelsOf);
  const stopCounting = countEvents(families, sink, labelsOf, partitionsOf(config, entity, name));
  const stopTiming = showLeases(families, sink, labelsOf);
  return () => {
    stopCounting();
    stopTiming();
  };
}

/** Counts what the sink tells by its events. */
function countEvents(
  families: SinkFamilies,
  sink: RedisWriteBehind,
  labelsOf: LabelsOf,
  partitions: readonly Pick<Place, "partition">[],
): () => void {
  const events = families.counter(
    "sink_events_total",
    "Events that this sink has applied or parked.",
  );
  const rows = families.counter("sink_rows_total", "Rows written or removed for them.");
  const noops = families.counter("sink_noops_total", "Events that had nothing to write.");
  const parked = families.counter("sink_parked_total", "Events that were put in the dead letter.");
  const retries = families.counter(
    "sink_retries_total",
    "Attempts that failed and are made again, by the kind of error.",
    ["kind"],
  );
  const halved = families.counter("sink_halved_total", "Times that a batch was too much at once.");
  const freshness = families.histogram(
    FRESHNESS_BUCKETS,
    "freshness_seconds",
    "From the write call to the row being visible, of up to 127 events of each batch.",
  );
  const duration = families.histogram(
    DURATION_BUCKETS,
    "batch_duration_seconds",
    "Time that the target took for a batch.",
  );
  const size = families.histogram(SIZE_BUCKETS, "batch_events", "Events of a batch.");

  const begun = new Set<number>();
  /** A series that begins with its first event has no increase to show for it. */
  const begin = ({ partition }: Pick<Place, "partition">) => {
    if (begun.has(partition)) return;
    begun.add(partition);
    const labels = labelsOf({ partition });
    for (const metric of [events, rows, noops, parked, halved]) metric.inc(labels, 0);
    for (const kind of ERROR_KINDS) retries.inc({ ...labels, kind }, 0);
    for (const metric of [freshness, duration, size]) metric.zero(labels);
  };
  partitions.forEach(begin);

  const ends = [
    sink.events.on("applied", (event) => {
      const labels = labelsOf(event);
      events.inc(labels, event.events);
      rows.inc(labels, event.rows);
      noops.inc(labels, event.noops);
      parked.inc(labels, event.parked);
      duration.observe(labels, event.durationMs / 1000);
      size.observe(labels, event.events);
      const observed = freshness.labels(labels);
      // A writer's clock may be ahead of this one's.
      for (const ms of event.freshnessMs) observed.observe(Math.max(0, ms) / 1000);
    }),
    sink.events.on("failed", (event) => retries.inc({ ...labelsOf(event), kind: event.kind })),
    sink.events.on("halved", (event) => halved.inc(labelsOf(event))),
    sink.events.on("claimed", begin), // a new one, where it was repartitioned
  ];
  return () => ends.forEach((end) => end());
}

/** Shows for how long the sink has had each partition. */
function showLeases(
  families: SinkFamilies,
  sink: RedisWriteBehind,
  labelsOf: LabelsOf,
): () => void {
  const claimedAt = new Map<number, number>();
  const ends = [
    sink.events.on("claimed", ({ partition, again }) => {
      if (!again) claimedAt.set(partition, performance.now());
    }),
    ...(["standby", "lost", "paused", "released"] as const).map((name) =>
      sink.events.on(name, ({ partition }) => claimedAt.delete(partition))
    ),
  ];
  new prometheus.Gauge({
    ...families.options(
      "sink_lease_age_seconds",
      "Time since this sink took the partition; none where it has not.",
    ),
    collect() {
      this.reset();
      for (const [partition, at] of claimedAt) {
        this.set(labelsOf({ partition }), (performance.now() - at) / 1000);
      }
    },
  });
  return () => ends.forEach((end) => end());
}

/** Shows what the sink says of itself when it is asked. */
function showStatus(families: SinkFamilies, sink: RedisWriteBehind, labelsOf: LabelsOf): void {
  const statuses = () =>
    sink.status.partitions.map((status) => ({ status, labels: labelsOf(status) }));
  new prometheus.Gauge({
    ...families.options(
      "sink_state",
      "1 for the state that the partition is in, 0 for the others.",
      ["state"],
    ),
    collect() {
      this.reset(); // of partitions that there are no more, once it was repartitioned
      for (const { status, labels } of statuses()) {
        for (const state of STATES) {
          this.set({ ...labels, state }, status.state === state ? 1 : 0);
        }
      }
    },
  });
  new prometheus.Gauge({
    ...families.options(
      "sink_failures_in_a_row",
      "Failures since the last batch that was applied.",
    ),
    collect() {
      this.reset();
      for (const { status, labels } of statuses()) this.set(labels, status.failuresInARow);
    },
  });
  const counted = (
    name: string,
    help: string,
    of: (status: SinkStatus["partitions"][number]) => number,
  ) =>
    new prometheus.Counter({
      ...families.options(name, help),
      collect() {
        this.reset();
        for (const { status, labels } of statuses()) this.inc(labels, of(status));
      },
    });
  counted("sink_trims_failed_total", "Trims of the stream that failed.", (of) => of.trimsFailed);
  counted(
    "sink_renewals_failed_total",
    "Renewals of the lease that failed.",
    (of) => of.renewalsFailed,
  );
}
