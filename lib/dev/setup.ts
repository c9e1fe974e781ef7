/**
 * What the tasks need beyond Deno, set up once: npm packages, and a Python environment with Jupyter and the
 * Redis Stack in `.venv`.
 * @module
 */

import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CHECKOUT, servicesFolder } from "../config/checkout.ts";
import { WriteBehindError } from "../core/errors.ts";
import { isThere } from "./servers/binaries.ts";
import { type Progress, withLock } from "./servers/lock.ts";

/** Something that the set-up needs is missing; the message says what to do. */
export class SetupError extends WriteBehindError {}

/** Options of {@linkcode ensureSetup}. */
export interface SetupOptions {
  onProgress?: Progress;
  /** Stops the set-up. */
  signal?: AbortSignal;
  /** The folder with `requirements.txt`, and `.venv` after it. @default {this checkout} */
  root?: string;
}

const OLDEST_PYTHON = [3, 10] as const;
const PYTHONS = Deno.build.os === "windows"
  ? [["py", "-3"], ["python"]]
  : [["python3"], ["python"], ["python3.13"], ["python3.12"], ["python3.11"], ["python3.10"]];

/**
 * Sets up what is missing, with a line about each part; returns at once when nothing is.
 *
 * @throws {SetupError} when Python, its venv or the network is missing
 */
export async function ensureSetup(options: SetupOptions = {}): Promise<void> {
  const { root = CHECKOUT, onProgress = () => {} } = options;
  await withLock(join(servicesFolder(root), "setup.lock"), onProgress, async () => {
    await installNpmPackages(root, options);
    await installPythonPackages(root, options);
  });
}

/** The Python of the checkout's environment. */
export function venvPython(root = CHECKOUT): string {
  return Deno.build.os === "windows"
    ? join(root, ".venv", "Scripts", "python.exe")
    : join(root, ".venv", "bin", "python");
}

async function installNpmPackages(root: string, { onProgress, signal }: SetupOptions) {
  const install = async () => {
    const { success, output } = await run([Deno.execPath(), "install"], { cwd: root, signal });
    if (success) return;
    throw new SetupError(
      `\`deno install\` failed: ${
        lastLine(output)
      }. It needs the npm registry, or a cache filled by ` +
        "it: check the network, then run the same command again",
    );
  };
  // If nothing is missing, this takes a few hundredths of a second: not worth a line.
  if (await isThere(join(root, "node_modules", ".deno"))) await install();
  else await step("npm packages, into node_modules", onProgress, install);
}

async function installPythonPackages(root: string, { onProgress, signal }: SetupOptions) {
  const requirements = join(root, "requirements.txt");
  const stamp = join(root, ".venv", ".requirements.sha256");
  const wanted = createHash("sha256").update(await Deno.readFile(requirements)).digest("hex");
  const installed = await Deno.readTextFile(stamp).catch(unlessMissing);
  const python = venvPython(root);
  const works = async (code: string) => (await run([python, "-c", code], { signal })).success;
  if (installed === wanted && await works("")) return;
  if (!await works("import pip")) {
    await step("Python environment, in .venv", onProgress, () => makeVenv(root, signal));
  }
  await step(
    "Python packages (JupyterLab and, where it exists, Redis Stack), into .venv: about a minute",
    onProgress,
    async () => {
      const pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
      const { success, output } = await run([python, ...pip, "-r", requirements], { signal });
      if (!success) throw new SetupError(pipFailure(output));
    },
  );
  // Written last: an environment without it counts as incomplete.
  await Deno.writeTextFile(stamp, wanted);
}

function unlessMissing(error: unknown): undefined {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

async function makeVenv(root: string, signal: AbortSignal | undefined): Promise<void> {
  const python = await findPython(signal);
  const venv = join(root, ".venv");
  // The environment does not work: the set-up was interrupted, or its Python was removed.
  await rm(venv, { recursive: true, force: true });
  const { success, output } = await run([...python, "-m", "venv", venv], { signal });
  if (success) return;
  await rm(venv, { recursive: true, force: true });
  throw new SetupError(
    /ensurepip|No module named venv/.test(output)
      ? `${
        python.join(" ")
      } has no venv: install it (Debian and Ubuntu: apt install python3-venv), ` +
        "then run the same command again"
      : `\`${python.join(" ")} -m venv .venv\` failed: ${lastLine(output)}`,
  );
}

async function findPython(signal: AbortSignal | undefined): Promise<readonly string[]> {
  const oldest = OLDEST_PYTHON.join(".");
  const tooOld: string[] = [];
  for (const command of PYTHONS) {
    const { success, output } = await run(
      [...command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
      { signal },
    );
    const [major = 0, minor = 0] = output.trim().split(".").map(Number);
    if (!success || major === 0) continue;
    if (major > OLDEST_PYTHON[0] || major === OLDEST_PYTHON[0] && minor >= OLDEST_PYTHON[1]) {
      return command;
    }
    tooOld.push(`${command.join(" ")} is ${major}.${minor}`);
  }
  const found = tooOld.length > 0 ? ` (found: ${tooOld.join(", ")})` : "";
  throw new SetupError(
    `Python ${oldest} or newer is needed, for Jupyter, and none is on the PATH${found}. Install it ` +
      "(https://www.python.org/downloads, or Debian and Ubuntu: apt install python3 python3-venv), " +
      "then run the same command again",
  );
}

function pipFailure(output: string): string {
  const unreachable = /connection|name resolution|timed out|Max retries|from versions: none/i;
  const advice = unreachable.test(output)
    ? "PyPI seems unreachable: check the network and pip's proxy or index settings, then run the same " +
      "command again"
    : "mend that, then run the same command again";
  return `pip could not install requirements.txt; its last line: ${lastLine(output)}\n${advice}`;
}

async function step(what: string, onProgress: Progress = () => {}, task: () => Promise<void>) {
  const since = performance.now();
  onProgress(`setting up: ${what} …`);
  await task();
  onProgress(`  done in ${((performance.now() - since) / 1000).toFixed(1)} s`);
}

/** Runs a program to its end; one that does not exist counts as failed. */
async function run(
  [program = "", ...args]: readonly string[],
  { cwd = ".", signal = new AbortController().signal }: {
    cwd?: string;
    signal?: AbortSignal | undefined;
  },
): Promise<{ success: boolean; output: string }> {
  try {
    const { success, stdout, stderr } = await new Deno.Command(program, {
      args,
      cwd,
      signal,
      stdin: "null",
    }).output();
    signal.throwIfAborted();
    const decoder = new TextDecoder();
    return { success, output: decoder.decode(stdout) + decoder.decode(stderr) };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { success: false, output: error.message };
    throw error;
  }
}

function lastLine(output: string): string {
  return output.trim().split("\n").at(-1)?.trim() ?? "(it said nothing)";
}
