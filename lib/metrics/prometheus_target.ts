/**
 * What a target says of an entity, as metrics; of its lag, together with Redis.
 * @module
 */

import type { PartitionKeys } from "../redis/keys.ts";
import type { StandingAndLag } from "../targets/standings.ts";
import type { Standing } from "../targets/target.ts";
import { sumsOf } from "./figures.ts";
import { type Families, OF_TARGET, type Watched } from "./prometheus_families.ts";

/** Shows what was read. */
interface TargetMetrics {
  /** what both say together */
  figures: (keys: PartitionKeys, both: StandingAndLag) => void;
  /** what the target says alone */
  standing: (keys: PartitionKeys, standing: Standing) => void;
  /** how the table's typed columns differ from the configured ones */
  columns: (differences: readonly unknown[]) => void;
}

/** Registers the metrics. */
export function targetMetrics(families: Families, { entity, target }: Watched): TargetMetrics {
  const { name } = target.describe();
  const written = families.lasting(
    "written_events_total",
    "Events written: applied and waiting.",
    OF_TARGET,
  );
  const applied = families.lasting(
    "applied_events_total",
    "Events that the target holds.",
    OF_TARGET,
  );
  const lagEvents = families.gauge(
    "lag_events",
    "Events that the target does not have.",
    OF_TARGET,
  );
  const lagSeconds = families.gauge(
    "lag_seconds",
    "Age of the oldest of them; 0 with none.",
    OF_TARGET,
  );
  const parked = families.gauge("parked_events", "Events in the dead letter.", OF_TARGET);
  const wentBack = families.lasting(
    "went_back_total",
    "Times that the stream went back.",
    OF_TARGET,
  );
  const owned = families.gauge("owned", "1 where a sink has the partition, else 0.", OF_TARGET);
  const lease = families.gauge(
    "lease_remaining_seconds",
    "Time until the owner's lease ends unless it is renewed; none for a lease that ends with its process.",
    OF_TARGET,
  );
  const columnsDiffer = families.gauge(
    "columns_differ",
    "1 where the table's typed columns are not as configured, else 0.",
    ["entity", "target"],
  );

  const labelsOf = ({ partition }: PartitionKeys) => ({
    entity,
    partition: String(partition),
    target: name,
  });
  const showStanding = (keys: PartitionKeys, standing: Standing) => {
    const labels = labelsOf(keys);
    wentBack.tell(labels, standing.wentBack, keys.shape.partitions);
    parked.set(labels, standing.parked);
    owned.set(labels, standing.live ? 1 : 0);
    if (standing.live && standing.leaseSeconds !== null) lease.set(labels, standing.leaseSeconds);
  };
  const showFigures = (keys: PartitionKeys, both: StandingAndLag) => {
    const labels = labelsOf(keys);
    const sums = sumsOf(both);
    // Once it was repartitioned, a number is another partition's.
    applied.tell(labels, sums.applied, keys.shape.partitions);
    written.tell(labels, sums.written, keys.shape.partitions);
    lagEvents.set(labels, sums.lag);
    lagSeconds.set(labels, sums.lagSeconds);
    showStanding(keys, both.standing);
  };
  return {
    figures: showFigures,
    standing: showStanding,
    columns: (differences) =>
      columnsDiffer.set({ entity, target: name }, differences.length > 0 ? 1 : 0),
  };
}
