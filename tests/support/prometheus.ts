/** Debian's Prometheus, as it is found on this machine: `apt-get install prometheus`. */

/** Whether a program can be started. A test that needs one that is missing is skipped, and named at the end of a run. */
export function isInstalled(program: "prometheus" | "promtool"): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/**
 * Runs promtool.
 * @param input its standard input
 * @returns what it has printed, and whether it is content
 */
export async function promtool(
  args: string[],
  input = "",
): Promise<{ success: boolean; output: string }> {
  const child = new Deno.Command("promtool", {
    args,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  const { success, stdout, stderr } = await child.output();
  const decoder = new TextDecoder();
  return { success, output: decoder.decode(stdout) + decoder.decode(stderr) };
}

/** The values of a metric in a scrape, by its labels as they stand there (`""` for none). */
export function seriesOf(scrape: string, name: string): Record<string, number> {
  const lines = scrape.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, "gm"));
  return Object.fromEntries([...lines].map(([, labels, value]) => [labels ?? "", Number(value)]));
}
