/** `deno task status`: a line a partition. */

import { reasonOf } from "../core/errors.ts";
import { type PartitionStatus, readStatus } from "../operate/status.ts";
import { connectRedis } from "../redis/connection.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, sayFor } from "./common.ts";

export interface StatusOptions {
  config?: string;
  entity?: string;
  json?: boolean;
}

/** After so long without an answer, in ms, a server counts as down. */
const PATIENCE_MS = 10_000;

/** Prints the status. The process's exit status is 1 where a partition is stuck or a server is down. */
export async function runStatus(options: StatusOptions): Promise<void> {
  const say = sayFor(options);
  const config = await configured(options.config, say);
  const away: string[] = [];
  const reach = async <T>(what: string, work: Promise<T>): Promise<T | null> => {
    try {
      return await answered(work);
    } catch (error) {
      away.push(
        oneLine(
          reasonOf(error).startsWith("Cannot") ? reasonOf(error) : `${what}: ${reasonOf(error)}`,
        ),
      );
      return null;
    }
  };
  const [redis, target] = await Promise.all([
    reach("Redis", connectRedis(config)),
    reach("the target", openTarget(config)),
  ]);
  const entities = options.entity ? [options.entity] : config.entities.map(({ name }) => name);
  const partitions: PartitionStatus[] = [];
  for (const entity of entities) {
    const read = await reach("status", readStatus(redis, target, config, entity));
    partitions.push(...read ?? []);
  }
  if (options.json) console.log(JSON.stringify({ away, partitions }, null, 2));
  else {
    for (const reason of away) console.log(reason);
    for (const partition of partitions) console.log(lineOf(partition));
  }
  if (away.length > 0 || partitions.some(needsAttention)) {
    Deno.exitCode = 1;
  }
  redis?.disconnect();
  // Closing could wait for a server that does not answer, or fail by it; the process ends here anyway.
  target?.close().catch(() => {});
}

const needsAttention = ({ stuck, doubts, warnings }: PartitionStatus) =>
  stuck.length + doubts.length + warnings.length > 0;

function answered<T>(work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no answer within ${PATIENCE_MS / 1000} s`)),
      PATIENCE_MS,
    );
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

function lineOf(status: PartitionStatus): string {
  const known = <T>(value: T | null, text: (value: T) => string | number) =>
    value === null ? "?" : text(value);
  const { stuck, doubts, wentBackAt, lastError } = status;
  const times = (count: number) =>
    count === 0 ? "never" : `${count} times, last ${wentBackAt?.toISOString()}`;
  return [
    status.stream,
    stuck.length > 0
      ? `STUCK: ${oneLine(stuck.join("; "))}`
      : doubts.length > 0
      ? `DOUBTFUL: rows may be missing or old, run deno task verify: ${oneLine(doubts.join("; "))}`
      : status.warnings.length > 0
      ? `WARNING: ${oneLine(status.warnings.join("; "))}`
      : status.lagEvents === null
      ? "unknown"
      : "ok",
    `offset ${known(status.offset, String)}`,
    `lag ${known(status.lagEvents, String)} events, ${
      known(status.lagSeconds, (seconds) => seconds.toFixed(1))
    } s`,
    status.owner !== null
      ? `owner ${status.owner} (${status.state ?? "owner"}, lease ${
        status.leaseSeconds === null ? "held" : `${status.leaseSeconds.toFixed(1)} s`
      })`
      : status.offset === null
      ? "owner ?"
      : "owner none",
    `parked ${known(status.parked, String)}`,
    `went back ${known(status.wentBack, times)}`,
    lastError === null
      ? "last error none"
      : `last error (${status.failures} in a row): ${oneLine(lastError)}`,
  ].join(" | ");
}
