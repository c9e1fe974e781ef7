/** The CPU time that the three parts of a pipeline take, as Linux counts it. */

import process from "node:process";
import type { Workbench } from "./workbench.ts";

/** CPU seconds of the draining processes, of all of PostgreSQL's and of Redis. */
export interface CpuTimes {
  deno: number;
  postgres: number;
  redis: number;
}

/** The unit of `/proc/<pid>/stat`, on every Linux. */
const TICKS_PER_SECOND = 100;

/** What a process has used itself, and what its children that have ended did, in seconds; and its parent. */
function statOf(pid: number | string): { parent: number; own: number; children: number } {
  const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
  // The name in brackets may hold anything, so fields are counted from behind it.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ").map(Number);
  const [utime, stime, cutime, cstime] = fields.slice(11, 15) as [number, number, number, number];
  return {
    parent: fields[1]!,
    own: (utime + stime) / TICKS_PER_SECOND,
    children: (cutime + cstime) / TICKS_PER_SECOND,
  };
}

/** CPU seconds that processes have used so far. */
export const secondsOf = (pids: readonly number[]): number =>
  pids.reduce((sum, pid) => sum + statOf(pid).own, 0);

/** A process with those that it has started. */
function familyOf(pid: number): number {
  const { own, children } = statOf(pid);
  let seconds = own + children;
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const child = statOf(name);
      if (child.parent === pid) seconds += child.own + child.children;
    } catch {
      // It has ended meanwhile.
    }
  }
  // One that has ended in between is in neither, or in both: look again.
  return statOf(pid).children === children ? seconds : familyOf(pid);
}

/**
 * CPU seconds used so far; `null` on systems other than Linux.
 * @param sinks the processes that drain; this one where there are none
 */
export function cpuTimes(
  { redisPid, postgresPid }: Workbench,
  sinks: readonly number[] = [],
): CpuTimes | null {
  if (Deno.build.os !== "linux") return null;
  const { user, system } = process.cpuUsage();
  return {
    deno: sinks.length === 0 ? (user + system) / 1e6 : secondsOf(sinks),
    postgres: familyOf(postgresPid),
    redis: familyOf(redisPid),
  };
}

/** What was used between two moments, each part divided by `by`: events, or seconds. */
export function cpuBetween(before: CpuTimes, after: CpuTimes, by: number): CpuTimes {
  return {
    deno: (after.deno - before.deno) / by,
    postgres: (after.postgres - before.postgres) / by,
    redis: (after.redis - before.redis) / by,
  };
}
