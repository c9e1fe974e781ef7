/**
 * How a program ends: with one line that says why, and an exit status.
 * @module
 */

import { reasonOf, WriteBehindError } from "./errors.ts";
import { InterruptedError } from "./interrupt.ts";

/**
 * Runs a command. An error that was thrown on purpose says what to do, one of the system has a text of its own, such as
 * that of a full disk behind `>`; for any other, the stack helps most.
 * @param say where the line goes
 * @returns the exit status: that of the command, 0 for none; 1 failed, 130 interrupted
 */
export async function ending(
  command: () => Promise<number | void>,
  say: (text: string) => void,
): Promise<number> {
  try {
    return await command() ?? 0;
  } catch (error) {
    if (error instanceof WriteBehindError || !(error instanceof Error)) say(reasonOf(error));
    else if (/\(os error \d+\)$/.test(error.message)) {
      say(`Cannot write or read: ${error.message}`);
    } else say(error.stack ?? error.message);
    return error instanceof InterruptedError ? 130 : 1;
  }
}
