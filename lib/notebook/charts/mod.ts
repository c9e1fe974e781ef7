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
  perMinuteChart,
} from "./charts.ts";
export { distributionChart } from "./distribution.ts";
