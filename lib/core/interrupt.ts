/**
 * Ctrl-C and its kin.
 * @module
 */

import { WriteBehindError } from "./errors.ts";

/** The user, or the system, asked the command to stop. */
export class InterruptedError extends WriteBehindError {}

/** One Ctrl-C may arrive twice within milliseconds: from the terminal, and from `deno task`. */
const SAME_CTRL_C_MS = 1000;

/**
 * Runs `task` with a signal that the first Ctrl-C or SIGTERM raises, with an {@linkcode InterruptedError} as
 * its reason. A second Ctrl-C ends the process at once.
 * @param options.cleansUp the task has to clean up behind itself: a closed terminal raises the signal as well,
 * and a second Ctrl-C changes nothing
 */
export async function interruptible<T>(
  task: (signal: AbortSignal) => Promise<T>,
  { cleansUp = false }: { cleansUp?: boolean } = {},
): Promise<T> {
  const controller = new AbortController();
  let stoppedAt = 0;
  const interrupt = () => {
    if (!controller.signal.aborted) {
      stoppedAt = performance.now();
      controller.abort(new InterruptedError("stopped"));
    } else if (!cleansUp && performance.now() - stoppedAt > SAME_CTRL_C_MS) Deno.exit(130);
  };
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM", ...(cleansUp ? ["SIGHUP"] as const : [])];
  for (const name of signals) Deno.addSignalListener(name, interrupt);
  try {
    return await task(controller.signal);
  } finally {
    // Once it was told to stop, the same Ctrl-C may still come from `deno task`, and would kill it while it ends.
    if (!controller.signal.aborted) {
      for (const name of signals) Deno.removeSignalListener(name, interrupt);
    }
  }
}
