/**
 * The stage's page in a notebook's cell.
 * @module
 */

import type { Config } from "../../config/load.ts";
import { liveFrame } from "../../notebook/live_frame.ts";
import { serveStage } from "./serve.ts";
import { Stage } from "./stage.ts";

/** The page, to be shown in a cell. The kernel serves it; once that is gone, one line says so in its place. */
export interface Controls extends AsyncDisposable {
  readonly html: string;
  /** With the token: whoever has it may press the buttons. */
  readonly url: string;
}

/**
 * Begins to serve the stage's page for the servers that a notebook uses, with the buttons that suit servers which are
 * not the page's own: traffic, a burst, a replay of what is parked, a verify. It writes with connections of its
 * own, so that a click works while a cell runs.
 * @param config as the notebook's other cells use it
 * @param options.entity @default {"session"}
 * @param options.height of the page in the cell, in pixels. @default {720}
 */
export async function controls(
  config: Config,
  { entity = "session", height = 720 }: { entity?: string; height?: number } = {},
): Promise<Controls> {
  await using begun = new AsyncDisposableStack();
  const given = { config, configPath: undefined };
  const stage = begun.use(await Stage.start({ given, control: true, entity }));
  const { url } = begun.use(await serveStage(stage));
  const all = begun.move();
  const html = liveFrame(url, {
    title: "writebehind's controls",
    height,
    gone:
      "The controls are not live: they work while the kernel that shows them runs, on its machine.",
  });
  return {
    html,
    url,
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}
