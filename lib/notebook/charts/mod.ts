/**
 * The charts of the notebooks. Each function returns one HTML figure.
 * @module
 */

import { kernelMarks, type Marks as KernelMarks } from "./marks.ts";

export {
  type Bar,
  comparisonChart,
  countersChart,
  dashboard,
  devicesChart,
  flowChart,
  freshnessChart,
  type Latencies,
  latencyChart,
  outcomesChart,
  targetsChart,
} from "./charts.ts";
export { type Mark, Marks, type Verified } from "./marks.ts";
export { createdChart } from "./created.ts";
export { distributionChart } from "./distribution.ts";

/** Marks this moment in all charts over time. */
export const mark = (text: string): void => kernelMarks.mark(text);
/** Keeps what a verify has found, for the tile of the dashboard, and marks it in the charts. */
export const found = (report: Parameters<KernelMarks["found"]>[0]): void =>
  kernelMarks.found(report);
/** Marks what a sink of this kernel, or a connection, reports; returns a function that ends this. */
export const follow = (events: Parameters<KernelMarks["follow"]>[0]): () => void =>
  kernelMarks.follow(events);
