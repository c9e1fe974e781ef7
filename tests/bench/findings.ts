/** What a run measures beside its rows, for the page's charts. */

import type { CpuTimes } from "./cpu.ts";

/** Values that one distribution keeps; of more, a random choice in which each is as likely. */
const MAX_SAMPLES = 10_000;

/** A bounded sample of any number of values. */
export class Sample {
  readonly values: number[] = [];
  #seen = 0;

  add(value: number): void {
    this.#seen++;
    if (this.values.length < MAX_SAMPLES) {
      this.values.push(value);
      return;
    }
    const place = Math.floor(Math.random() * this.#seen);
    if (place < MAX_SAMPLES) this.values[place] = value;
  }
}

/** What drains of one kind cost: CPU seconds of an event, one a round. */
export type CpuCosts = Map<string, CpuTimes[]>;

/** One deployment of the same backlog, with its figures of all rounds. */
export interface GrowthPoint {
  partitions: number;
  sinks: number;
  /** events a second */
  rates: number[];
  /** cores that were busy, one a round; none where the system does not tell */
  cores: CpuTimes[];
}

/** Everything that the page draws. */
export class Findings {
  /** events a second of each contender of the drain rows, one a round */
  readonly rates = new Map<string, readonly number[]>();
  /** times of single calls in ms, by chart and by series */
  readonly latencies = { write: new Map<string, Sample>(), freshness: new Map<string, Sample>() };
  /** events a second by the size of the backlog, one a round */
  readonly backlogs = new Map<number, readonly number[]>();
  readonly cpu: CpuCosts = new Map();
  growth: GrowthPoint[] = [];

  addLatencies(chart: keyof Findings["latencies"], series: string, times: Iterable<number>): void {
    const sample = this.latencies[chart].get(series) ?? new Sample();
    this.latencies[chart].set(series, sample);
    for (const time of times) sample.add(time);
  }

  addCpu(name: string, cost: CpuTimes): void {
    const costs = this.cpu.get(name) ?? [];
    this.cpu.set(name, costs);
    costs.push(cost);
  }
}
