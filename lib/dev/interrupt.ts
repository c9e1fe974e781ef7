import { WriteBehindError } from "../core/errors.ts";

/** The user, or the system, told the command to stop. */
export class InterruptedError extends WriteBehindError {}

const SIGNALS: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK"]
  : ["SIGINT", "SIGTERM", "SIGHUP"];

/**
 * Runs `task` with a signal that Ctrl-C, SIGTERM and a closed terminal raise, so that it can clean up. A
 * second Ctrl-C does not cut that short.
 */
export async function interruptible<T>(task: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const interrupt = () => controller.abort(new InterruptedError("interrupted"));
  for (const name of SIGNALS) Deno.addSignalListener(name, interrupt);
  try {
    return await task(controller.signal);
  } finally {
    for (const name of SIGNALS) Deno.removeSignalListener(name, interrupt);
  }
}
