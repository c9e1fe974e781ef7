/** Programs that are no part of the project: Debian has them. */

/** Whether a program can be started. A test that needs one that is missing is skipped, and named at the end of a run. */
export function isInstalled(
  program:
    | "java"
    | "javac"
    | "mariadbd"
    | "mvn"
    | "pgbouncer"
    | "prlimit"
    | "prometheus"
    | "promtool"
    | "script",
): boolean {
  try {
    return new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
      .outputSync().success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
