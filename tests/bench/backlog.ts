/** Row 9: whether the size of the backlog matters, to the rate or to the sink's memory. */

import { drained } from "./drain.ts";
import { interleave, median, perSecond, ratios, type Row, row } from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import type { Backlog, Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

/** Draining a million events takes long, and its rate varies little. */
const MAX_ROUNDS = 2;

/** A small backlog is drained in no time, so it is drained again and again. */
const SMALL_DRAINS = 5;

const LOOK_EVERY_MS = 100;

export async function backlogRows(bench: Workbench): Promise<Row[]> {
  const { largeBacklog, mediumBacklog, smallBacklog } = bench.sizes;
  await bench.clear();
  const small = await fill(bench, smallBacklog);
  const medium = await fill(bench, mediumBacklog);
  const large = await fill(bench, largeBacklog);
  bench.step("warm-up: drain");
  await drained(bench, small);
  const rates = await interleave(
    [
      [small.name, () => repeatedly(SMALL_DRAINS, () => drained(bench, small))],
      [medium.name, () => drained(bench, medium)],
      [large.name, () => drained(bench, large)],
    ],
    Math.min(bench.rounds, MAX_ROUNDS),
    bench.step,
  );
  for (const { name, events } of [small, medium, large]) {
    bench.findings.backlogs.set(events, rates(name));
  }
  bench.step(`memory of the sink's process, ${large.name}`);
  const memory = await memoryOf(bench, large);
  const [few, many] = [rates(small.name), rates(large.name)];
  return [
    row(
      "9a",
      `drain of ${large.name} / of ${small.name}`,
      ratios(many, few),
      { atLeast: 0.9 },
      `${perSecond(many)} / ${perSecond(few)}`,
    ),
    row("9b", `peak memory of the sink's process in MB, ${large.name}, at most`, [memory.peak], {
      atMost: 200,
    }),
    row(
      "9c",
      "its memory in the last quarter / in the second one, at most",
      [memory.late / memory.early],
      { atMost: 1.1 },
      `${memory.late.toFixed(0)} MB / ${memory.early.toFixed(0)} MB`,
    ),
  ];
}

function fill(bench: Workbench, events: number): Promise<Backlog> {
  const name = `${events.toLocaleString("en")} events`;
  return bench.fill(name, bench.config, uniqueInserts(events), events);
}

async function repeatedly(times: number, measure: () => Promise<number>): Promise<number> {
  const rates: number[] = [];
  for (let time = 0; time < times; time++) rates.push(await measure());
  return median(rates);
}

/** Drains a backlog by a sink in a process of its own; its memory in MB. */
async function memoryOf(bench: Workbench, backlog: Backlog) {
  await bench.restore(backlog);
  const ends = await bench.ends(bench.config);
  await using sink = await SinkProcess.start(bench);
  const samples: number[] = [];
  await sink.reaches(ends, {
    everyMs: LOOK_EVERY_MS,
    onLook: () => samples.push(sink.memory().now),
  });
  const { peak, now } = sink.memory();
  await bench.checkRows(backlog.rows);
  samples.push(now);
  const quarter = (index: number) =>
    median(
      samples.slice(
        Math.floor(samples.length * index / 4),
        Math.max(1, Math.ceil(samples.length * (index + 1) / 4)),
      ),
    );
  return { peak, early: quarter(1), late: quarter(3) };
}
