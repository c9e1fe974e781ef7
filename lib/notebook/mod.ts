/**
 * What a notebook's cells import: the kernel's guard, displays, DataFrames, charts, and what cells keep
 * between runs. It loads polars and Observable Plot, so `writebehind` itself does without it.
 * @module
 */

export {
  guardKernel,
  live,
  type LiveDisplay,
  type LiveOptions,
  show,
  type Showable,
} from "./display.ts";
export {
  type ColumnType,
  type DataFrame,
  frame,
  FrameError,
  frameHtml,
  type FrameView,
  metricsFrame,
  queryFrame,
  type Schema,
  showFrame,
  streamFrame,
} from "./frames.ts";
export * as charts from "./charts/mod.ts";
export type { Mark, Marks, Verified } from "./charts/marks.ts";
export { endAll, keep } from "./resources.ts";
export { openScratchDatabases, type ScratchDatabases } from "./scratch_databases.ts";
export { SinkProcess } from "./sink_process.ts";
export { type BackgroundTraffic, startTraffic } from "./traffic.ts";
export { verifyOnClick } from "./verify_on_click.ts";
export { type Summary, writeSummary } from "./summary.ts";
export * as original from "./original.ts";
