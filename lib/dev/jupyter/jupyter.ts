/** The checkout's own Jupyter: its folders and its Deno kernel, all in `.venv`; what its notebooks need. */

import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CHECKOUT } from "../../config/checkout.ts";
import { type ServerSettings, usesPostgres } from "../../config/servers.ts";
import { ConfigError } from "../../core/errors.ts";
import { isThere } from "../servers/binaries.ts";

/**
 * Sees that the configuration's target is PostgreSQL, which the notebooks query. They read the same file.
 * @throws {ConfigError} where it is of another kind
 */
export function requirePostgres(config: ServerSettings | undefined): void {
  if (!config || usesPostgres(config)) return;
  throw new ConfigError(
    "targets: the notebooks query PostgreSQL, and cannot run while another kind is the target; leave " +
      "`targets` out for them, or run `deno task pipeline`, which works with each",
  );
}

/** Where JupyterLab remembers which tabs were open. */
const workspaces = (root: string) => join(root, ".venv", "var", "lab", "workspaces");

/** What users have set in JupyterLab, and apart from it what they have set for an audience. */
const userSettings = (root: string, present: boolean) =>
  join(root, ".venv", "var", "lab", present ? "presenting" : "settings");

/**
 * Jupyter's folders, so that it neither reads nor writes anything in the user's home.
 * @param options.present for an audience. @default {false}
 */
export function jupyterEnvironment(
  { root = CHECKOUT, present = false }: { root?: string; present?: boolean | undefined } = {},
): Record<string, string> {
  const venv = join(root, ".venv");
  return {
    JUPYTER_DATA_DIR: join(venv, "share", "jupyter"),
    JUPYTER_CONFIG_DIR: join(venv, "etc", "jupyter"),
    JUPYTER_RUNTIME_DIR: join(venv, "var", "jupyter"),
    JUPYTERLAB_SETTINGS_DIR: userSettings(root, present),
    JUPYTERLAB_WORKSPACES_DIR: workspaces(root),
    IPYTHONDIR: join(venv, "var", "ipython"),
    JUPYTER_PATH: "",
    JUPYTER_CONFIG_PATH: "",
    PYTHONNOUSERSITE: "1",
  };
}

/**
 * Writes the kernelspec of the Deno that runs now. Its path may lie in a cache folder and change, so this is
 * done each time Jupyter is started.
 */
export async function writeKernelspec(root = CHECKOUT): Promise<void> {
  const folder = join(root, ".venv", "share", "jupyter", "kernels", "deno");
  await Deno.mkdir(folder, { recursive: true });
  const draft = join(folder, `kernel.json.${crypto.randomUUID()}`);
  await Deno.writeTextFile(
    draft,
    JSON.stringify({
      argv: [Deno.execPath(), "jupyter", "--kernel", "--conn", "{connection_file}"],
      display_name: "Deno",
      language: "typescript",
    }),
  );
  await Deno.rename(draft, join(folder, "kernel.json"));
}

/** Type that is read from the last row, as JupyterLab's settings name it. */
const LARGE = {
  "code-font-size": "20px",
  "content-font-size1": "21px",
  "ui-font-size1": "15px",
};

/**
 * Answers the question about news that JupyterLab asks on its first start, and keeps cells that are scrolled
 * out of sight in the page, so that live charts go on there. Forgets the tabs of the last time: they may be of files
 * that are not meant to be opened, and each starts a kernel.
 * @param options.present for an audience: large type. @default {false}
 */
export async function writeLabSettings(
  { root = CHECKOUT, present = false }: { root?: string; present?: boolean | undefined } = {},
): Promise<void> {
  const folder = join(root, ".venv", "share", "jupyter", "lab", "settings");
  await Deno.mkdir(folder, { recursive: true });
  await rm(workspaces(root), { recursive: true, force: true });
  const settings = {
    "@jupyterlab/apputils-extension:notification": { checkForUpdates: false, fetchNews: "false" },
    "@jupyterlab/notebook-extension:tracker": { windowingMode: "contentVisibility" },
  };
  await Deno.writeTextFile(join(folder, "overrides.json"), JSON.stringify(settings, null, 2));
  if (!present) return;
  // Sizes count only as the user's own settings, so a presentation has settings of its own.
  const own = join(userSettings(root, true), "@jupyterlab", "apputils-extension");
  await Deno.mkdir(own, { recursive: true });
  const themes = join(own, "themes.jupyterlab-settings");
  const large = JSON.stringify({ overrides: LARGE }, null, 2);
  // The theme that was chosen the last time is in that file, too.
  if (!await isThere(themes)) await Deno.writeTextFile(themes, large);
}
