/**
 * The charts of the notebooks. Each function returns one HTML figure.
 * @module
 */

export {
  type Bar,
  comparisonChart,
  dashboard,
  devicesChart,
  flowChart,
  freshnessChart,
  type Latencies,
  latencyChart,
  outcomesChart,
} from "./charts.ts";
export { createdChart } from "./created.ts";
export { distributionChart } from "./distribution.ts";
