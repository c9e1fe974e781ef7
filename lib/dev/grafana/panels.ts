/** What the dashboards are made of: panels, and the variables that their queries use. */

import type { Builder } from "@grafana/grafana-foundation-sdk/cog";
import {
  BigValueColorMode,
  BigValueGraphMode,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  TooltipDisplayMode,
  VizLegendOptionsBuilder,
  VizTooltipOptionsBuilder,
} from "@grafana/grafana-foundation-sdk/common";
import {
  type Panel,
  QueryVariableBuilder,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  VariableRefresh,
  VariableSort,
} from "@grafana/grafana-foundation-sdk/dashboard";
import {
  HeatmapColorMode,
  HeatmapColorOptionsBuilder,
  PanelBuilder as HeatmapBuilder,
  YAxisConfigBuilder,
} from "@grafana/grafana-foundation-sdk/heatmap";
import { DataqueryBuilder, PromQueryFormat } from "@grafana/grafana-foundation-sdk/prometheus";
import { PanelBuilder as StatBuilder } from "@grafana/grafana-foundation-sdk/stat";
import { PanelBuilder as TimelineBuilder } from "@grafana/grafana-foundation-sdk/statetimeline";
import { PanelBuilder as SeriesBuilder } from "@grafana/grafana-foundation-sdk/timeseries";

/** The one datasource, as it is chosen in the dashboard. */
const DATASOURCE = { type: "prometheus", uid: "${datasource}" };

/** What a panel shows. */
export interface Shown {
  title: string;
  /** what it says, for people */
  description: string;
  unit: string;
  /** PromQL by legend */
  queries: Record<string, string>;
}

const WIDTH = 24;

/** The queries, named A, B, C … as Grafana wants it. */
function targets(queries: Record<string, string>): DataqueryBuilder[] {
  return Object.entries(queries).map(([legend, expr], index) =>
    new DataqueryBuilder().datasource(DATASOURCE).refId(String.fromCharCode(65 + index))
      .expr(expr).legendFormat(legend).range()
  );
}

/** Lines over time. */
export function series({ title, description, unit, queries }: Shown, columns = 2): Builder<Panel> {
  const panel = new SeriesBuilder().title(title).description(description).unit(unit)
    .datasource(DATASOURCE).span(WIDTH / columns).height(8).min(0).fillOpacity(10).lineWidth(2)
    .legend(
      new VizLegendOptionsBuilder().showLegend(true).displayMode(LegendDisplayMode.List)
        .placement(LegendPlacement.Bottom),
    )
    .tooltip(new VizTooltipOptionsBuilder().mode(TooltipDisplayMode.Multi));
  return panel.targets(targets(queries));
}

/**
 * One large number with its recent course.
 * @param bad from which value on it is red; without it, no value is
 */
export function stat({ title, description, unit, queries }: Shown, bad?: number): Builder<Panel> {
  const steps = [
    { value: null, color: bad === undefined ? "blue" : "green" },
    ...bad === undefined ? [] : [{ value: bad, color: "red" }],
  ];
  const panel = new StatBuilder().title(title).description(description).unit(unit)
    .datasource(DATASOURCE).span(WIDTH / 6).height(4).noValue("no data")
    .graphMode(BigValueGraphMode.Area).colorMode(BigValueColorMode.Value)
    .reduceOptions(new ReduceDataOptionsBuilder().calcs(["lastNotNull"]))
    .thresholds(new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(steps));
  return panel.targets(targets(queries));
}

/** A histogram over time. */
export function heatmap({ title, description, unit, queries }: Shown, columns = 2): Builder<Panel> {
  const panel = new HeatmapBuilder().title(title).description(description)
    .datasource(DATASOURCE).span(WIDTH / columns).height(8)
    .yAxis(new YAxisConfigBuilder().unit(unit))
    .color(new HeatmapColorOptionsBuilder().mode(HeatmapColorMode.Scheme).scheme("Viridis"));
  return panel.targets(targets(queries).map((query) => query.format(PromQueryFormat.Heatmap)));
}

/** Which of some states holds when. */
export function timeline(
  { title, description, unit, queries }: Shown,
  columns = 1,
): Builder<Panel> {
  const panel = new TimelineBuilder().title(title).description(description).unit(unit)
    .datasource(DATASOURCE).span(WIDTH / columns).height(8);
  return panel.targets(targets(queries));
}

/** A variable with the values that a label has. */
export function labelVariable(
  name: string,
  metric: string,
  { multi }: { multi: boolean },
): QueryVariableBuilder {
  const values = `label_values(${metric}, ${name})`;
  return new QueryVariableBuilder(name).label(name).datasource(DATASOURCE)
    .query({ qryType: 1, query: values, refId: "variable" }).definition(values)
    .refresh(VariableRefresh.OnTimeRangeChanged).sort(VariableSort.NumericalAsc)
    .multi(multi).includeAll(multi).allValue(multi ? ".*" : "");
}
