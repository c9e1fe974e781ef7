/**
 * JupyterLab on the notebook, with the servers running.
 * @module
 */

import { relative } from "node:path";
import { CHECKOUT } from "../../config/checkout.ts";
import { describeServers, type ServerSettings } from "../../config/servers.ts";
import { interruptible } from "../../core/interrupt.ts";
import { leaveServices } from "../servers/leave.ts";
import { startServices } from "../servers/services.ts";
import { ensureSetup, venvPython } from "../setup.ts";
import { copyNotebooks } from "./copies.ts";
import {
  jupyterEnvironment,
  requirePostgres,
  writeKernelspec,
  writeLabSettings,
} from "./jupyter.ts";

/** Options of {@linkcode runLab}. */
export interface LabOptions {
  /** Its name. @default {"writebehind.ipynb"} */
  notebook?: string;
  /** For an audience: large type, one document, no sidebar. @default {false} */
  present?: boolean | undefined;
  /** Whether to open a browser. @default {where there is a screen} */
  browser?: boolean;
  config?: ServerSettings;
}

/** How long JupyterLab may take to end its kernels, in milliseconds, before it is killed. */
const END_MS = 15_000;

/**
 * Runs JupyterLab on 127.0.0.1 until Ctrl-C, which ends it, its kernels and the servers.
 * @throws {ConfigError} where the target is no PostgreSQL
 */
export function runLab(options: LabOptions = {}): Promise<void> {
  return interruptible(async (signal) => {
    const { config } = options;
    requirePostgres(config);
    await ensureSetup({ onProgress: console.log, signal });
    await writeKernelspec();
    await writeLabSettings({ present: options.present });
    const folder = relative(CHECKOUT, await copyNotebooks({ onProgress: console.log }));
    try {
      console.log(describeServers(await startServices({ config, onProgress: console.log })));
      console.log("starting JupyterLab; Ctrl-C stops it and everything else");
      console.log(`it opens copies, in ${folder}/`);
      await runJupyter(folder, options, signal);
    } finally {
      await leaveServices();
    }
  }, { cleansUp: true });
}

async function runJupyter(
  folder: string,
  options: LabOptions,
  signal: AbortSignal,
): Promise<void> {
  const { notebook = "writebehind.ipynb", browser = hasScreen(), present = false } = options;
  if (signal.aborted) return;
  const lab = new Deno.Command(venvPython(), {
    args: [
      ...["-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", `--ServerApp.root_dir=${CHECKOUT}`],
      // In the mode `doc` a tab is all that there is.
      `--LabApp.default_url=/${present ? "doc" : "lab"}/tree/${folder}/${notebook}`,
      // No look for newer versions; the question about news is answered by the settings.
      "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
      "--LabApp.extension_manager=readonly",
      "--ServerApp.log_level=WARN",
      ...(browser ? [] : ["--no-browser"]),
      ...(Deno.build.os !== "windows" && Deno.uid() === 0 ? ["--allow-root"] : []),
    ],
    cwd: CHECKOUT,
    env: jupyterEnvironment({ present }),
    // Ctrl-C is ours to pass on: JupyterLab would ask whether it is meant.
    detached: true,
    stdin: "null",
  }).spawn();
  let deadline: ReturnType<typeof setTimeout> | undefined;
  const end = () => {
    lab.kill("SIGTERM");
    deadline = setTimeout(() => lab.kill("SIGKILL"), END_MS);
  };
  signal.addEventListener("abort", end, { once: true });
  try {
    const { success, code } = await lab.status;
    if (!success && !signal.aborted) throw new Error(`JupyterLab ended with status ${code}`);
  } finally {
    signal.removeEventListener("abort", end);
    clearTimeout(deadline);
  }
}

function hasScreen(): boolean {
  if (Deno.env.get("CI")) return false;
  return Deno.build.os !== "linux" ||
    Boolean(Deno.env.get("DISPLAY") || Deno.env.get("WAYLAND_DISPLAY"));
}
