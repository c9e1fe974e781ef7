/** Server processes: starting them in a session of their own, recognising them later, ending them. */

import type { ProcessIdentity } from "../../config/record.ts";
import { delay } from "../../core/delay.ts";

export type { ProcessIdentity };

/** The account under which a server runs when it is not the caller's own. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** Returns when the process `pid` started, or `undefined` where none runs (a zombie has ended). */
export function processStartTime(pid: number): string | undefined {
  if (Deno.build.os === "linux") {
    try {
      const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
      // The second field, the name, may hold spaces and parentheses: count from its end.
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      // A zombie whose other threads are still ending holds its files and ports.
      const ended = fields[0] === "Z" && [...Deno.readDirSync(`/proc/${pid}/task`)].length <= 1;
      if (ended || fields[0] === "X") return undefined;
      const boot = Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").slice(0, 8);
      return `${boot}-${fields[19]}`;
    } catch (error) {
      // The second one is what reading says where the process ends meanwhile (ESRCH).
      if (error instanceof Deno.errors.NotFound || /No such process/.test(String(error))) return;
      throw error;
    }
  }
  const { success, stdout } = new Deno.Command("ps", {
    args: ["-o", "stat=", "-o", "lstart=", "-p", String(pid)],
    env: { LC_ALL: "C" },
    stdin: "null",
    stderr: "null",
  }).outputSync();
  const [state, ...started] = new TextDecoder().decode(stdout).trim().split(/\s+/);
  return success && state && !state.startsWith("Z") ? started.join(" ") : undefined;
}

/** Whether exactly this process, and not a later one with its pid, still runs. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  return processStartTime(pid) === startTime;
}

/** Sends a signal to the process if it still runs. */
export function signalProcess(process: ProcessIdentity, signal: Deno.Signal): void {
  if (!isAlive(process)) return;
  try {
    Deno.kill(process.pid, signal);
  } catch (error) {
    // It has ended just now.
    if (!(error instanceof Deno.errors.NotFound) && isAlive(process)) throw error;
  }
}

/** How often the signal to end is repeated, in ms. */
const REMIND_MS = 250;
/** How long the system may take to end a process that was killed, in ms. */
const KILL_MS = 10_000;

/**
 * Ends a process: `signal`, then SIGKILL when it still runs after `deadlineMs` milliseconds.
 *
 * A process that SIGSTOP has stopped is continued, so that it can obey. The signal is repeated, since a process may
 * refuse at first (Redis does while it writes its first append-only file).
 */
export async function endProcess(
  process: ProcessIdentity,
  signal: Deno.Signal,
  deadlineMs: number,
): Promise<void> {
  const began = performance.now();
  for (let sentAt = -Infinity; isAlive(process); await delay(10)) {
    const now = performance.now();
    if (now - began > deadlineMs + KILL_MS) {
      throw new Error(`process ${process.pid} does not end, not even by SIGKILL`);
    }
    if (now - sentAt < REMIND_MS) continue;
    sentAt = now;
    signalProcess(process, now - began < deadlineMs ? signal : "SIGKILL");
    signalProcess(process, "SIGCONT");
  }
}

/**
 * Starts `command` in a session of its own, so that no signal for the caller's process group (Ctrl-C, a
 * kernel's interrupt) reaches it, with its output appended to the file `log`.
 *
 * The shell in between leaves at once, so the caller holds no handle and the server outlives it.
 */
export async function startDetached(
  command: readonly string[],
  { log, env = {}, account, cwd }: {
    log: string;
    env?: Record<string, string>;
    account?: Account | undefined;
    cwd: string;
  },
): Promise<ProcessIdentity> {
  // `detached` is obeyed by spawn() only, not by Command's own output().
  const shell = new Deno.Command("sh", {
    args: ["-c", '"$@" </dev/null >>"$0" 2>&1 & echo $!', log, ...command],
    env,
    cwd,
    ...account,
    detached: true,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { stdout, stderr } = await shell.output();
  const decoder = new TextDecoder();
  const pid = Number(decoder.decode(stdout));
  if (!(pid > 0)) {
    throw new Error(`cannot start ${command[0]}: ${decoder.decode(stderr).trim()}`);
  }
  return { pid, startTime: processStartTime(pid) ?? "ended" };
}

/**
 * Returns a port that is free on 127.0.0.1 now: `preferred` where it is, else one that the system picks.
 * Another process may still take it before the caller does; who starts a server has to try again then.
 */
export function freePort(preferred = 0): number {
  try {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: preferred });
    return listener.addr.port;
  } catch (error) {
    const taken = error instanceof Deno.errors.AddrInUse ||
      error instanceof Deno.errors.PermissionDenied;
    if (!taken || preferred === 0) throw error;
    return freePort();
  }
}
