/** Commands as a user sees them: on a terminal. */

import { CHECKOUT } from "writebehind/config/checkout.ts";

/** What a command has shown on a terminal. */
export interface Shown {
  code: number;
  /** with everything that moves the cursor taken out; what stood in a line after the other is separated by it */
  text: string;
}

/**
 * Runs a task on a pseudo terminal of its own, by util-linux's `script`.
 * @param args words without spaces
 */
export async function onTerminal(args: string[], env: Record<string, string>): Promise<Shown> {
  const command = `stty cols 160; exec '${Deno.execPath()}' task --quiet ${args.join(" ")}`;
  const { code, stdout } = await new Deno.Command("script", {
    args: ["-qec", command, "/dev/null"],
    cwd: CHECKOUT,
    env: { TERM: "xterm", ...env },
    stdin: "null",
  }).output();
  // deno-lint-ignore no-control-regex -- these are what a terminal is told
  const text = new TextDecoder().decode(stdout).replaceAll(/\x1b(\[[\d;?]*[A-Za-z]|[78])/g, "\n");
  return { code, text };
}
