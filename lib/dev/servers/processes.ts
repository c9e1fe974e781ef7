/**
 * Server processes: starting them in a session of their own, recognising them later, ending them.
 * Light on purpose: the registry, which every command reads, imports it.
 */

import { delay } from "../../core/delay.ts";

/** A process, told apart from a later one with the same pid by the time it started. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When the process started, in the system's own notation; only compared, never parsed. */
  readonly startTime: string;
}

/** The account under which a server runs when it is not the caller's own. */
export interface Account {
  readonly uid: number;
  readonly gid: number;
}

/** Returns when the process `pid` started, or `undefined` where none runs (a zombie has ended). */
export function processStartTime(pid: number): string | undefined {
  if (Deno.build.os === "linux") {
    try {
      const stat = readProc(`/proc/${pid}/stat`);
      // The second field, the name, may hold spaces and parentheses: count from its end.
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      // A zombie whose other threads are still ending holds its files and ports.
      const ended = fields[0] === "Z" && [...Deno.readDirSync(`/proc/${pid}/task`)].length <= 1;
      if (ended || fields[0] === "X") return undefined;
      const boot = readProc("/proc/sys/kernel/random/boot_id").slice(0, 8);
      return `${boot}-${fields[19]}`;
    } catch {
      return undefined;
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

/** Reads a file of /proc. Deno lets only `--allow-all` read there, and the sink runs with less: it has `cat`. */
function readProc(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    const { success, stdout } = new Deno.Command("cat", {
      args: [path],
      stdin: "null",
      stderr: "null",
    }).outputSync();
    if (!success) throw error;
    return new TextDecoder().decode(stdout);
  }
}

/** Tells whether exactly this process, and not a later one with its pid, still runs. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  return processStartTime(pid) === startTime;
}

/** Sends a signal to the process if it still runs; tells whether it did. */
export function signalProcess(process: ProcessIdentity, signal: Deno.Signal): boolean {
  if (!isAlive(process)) return false;
  try {
    Deno.kill(process.pid, signal);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || !isAlive(process)) return false;
    throw error;
  }
}

/** How often a process that was told to end is told again, in milliseconds. */
const REMIND_MS = 250;

/**
 * Ends a process: `signal`, then SIGKILL when it still runs after `deadlineMs` milliseconds.
 *
 * A process that was stopped by SIGSTOP is continued, so that it can obey, and one that refuses for the
 * moment (Redis does while it writes its first append-only file) is told again.
 */
export async function endProcess(
  process: ProcessIdentity,
  signal: Deno.Signal,
  deadlineMs: number,
): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  while (Date.now() < deadline && signalProcess(process, signal)) {
    if (signal !== "SIGKILL") signalProcess(process, "SIGCONT");
    if (await exits(process, REMIND_MS)) return;
  }
  if (!signalProcess(process, "SIGKILL")) return;
  if (!await exits(process, KILL_MS)) {
    throw new Error(`process ${process.pid} does not end, not even by SIGKILL`);
  }
}

/** How long the system may take to end a process that was killed, in milliseconds. */
const KILL_MS = 10_000;

async function exits(process: ProcessIdentity, deadlineMs: number): Promise<boolean> {
  const deadline = Date.now() + deadlineMs;
  while (isAlive(process)) {
    if (Date.now() > deadline) return false;
    await delay(10);
  }
  return true;
}

/**
 * Starts `command` in a session of its own, so that no signal for the caller's process group (Ctrl-C, a
 * kernel's interrupt) reaches it, with its output appended to the file `log`.
 *
 * The shell in between leaves at once, so the caller holds no handle and the server outlives it.
 */
export async function startDetached(
  command: string,
  args: readonly string[],
  { log, env = {}, account, cwd }: {
    log: string;
    env?: Record<string, string>;
    account?: Account;
    cwd: string;
  },
): Promise<ProcessIdentity> {
  // `detached` is obeyed by spawn() only, not by Command's own output().
  const shell = new Deno.Command("sh", {
    args: ["-c", '"$@" </dev/null >>"$0" 2>&1 & echo $!', log, command, ...args],
    env,
    cwd,
    ...account,
    detached: true,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { success, stdout, stderr } = await shell.output();
  const decoder = new TextDecoder();
  const pid = Number(decoder.decode(stdout));
  if (!success || !Number.isInteger(pid) || pid <= 0) {
    throw new Error(`cannot start ${command}: ${decoder.decode(stderr).trim()}`);
  }
  return { pid, startTime: processStartTime(pid) ?? "ended" };
}

/**
 * Returns a port that is free on 127.0.0.1 now: `preferred` where it is, else one that the system picks.
 * Another process may still take it before the caller does; who starts a server has to try again then.
 */
export function freePort(preferred?: number): number {
  if (preferred !== undefined) {
    try {
      Deno.listen({ hostname: "127.0.0.1", port: preferred }).close();
      return preferred;
    } catch (error) {
      if (
        !(error instanceof Deno.errors.AddrInUse || error instanceof Deno.errors.PermissionDenied)
      ) {
        throw error;
      }
    }
  }
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Returns the last lines of a log file, or a word that there are none. */
export async function logTail(path: string, lines = 15): Promise<string> {
  try {
    const text = (await Deno.readTextFile(path)).trimEnd();
    return text.split("\n").slice(-lines).join("\n") || "(the log is empty)";
  } catch {
    return "(no log was written)";
  }
}
