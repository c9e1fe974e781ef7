/** Row 21: documents of kilobytes, against COPY of the same rows. */

import { copied, copyOfTable, drained } from "./drain.ts";
import { interleave, median, perSecond, ratios, type Row, row } from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import type { Workbench } from "./workbench.ts";
import { documentsOf } from "./workload.ts";

const SIZES = [
  ["21a", "10 kB", 10_000],
  ["21b", "100 kB", 100_000],
  ["21c", "1 MB", 1_000_000],
] as const;
const MB = 1_000_000;
const LOOK_EVERY_MS = 20;

export async function sizeRows(bench: Workbench): Promise<Row[]> {
  const rows: Row[] = [];
  for (const [id, title, bytes] of SIZES) {
    await bench.clear();
    const count = Math.max(1, Math.floor(bench.sizes.largeBytes / bytes));
    const name = `drain of documents of ${title}`;
    const backlog = await bench.fill(name, bench.config, documentsOf(count, bytes), count);
    bench.step(`warm-up: ${name}`);
    await drained(bench, backlog);
    const path = await copyOfTable(bench);
    const copy = `COPY of documents of ${title}`;
    const rates = await interleave(
      [[name, () => drained(bench, backlog)], [copy, () => copied(bench, path, count)]],
      bench.rounds,
      bench.step,
    );
    await bench.restore(backlog);
    const ends = await bench.ends(bench.config);
    await using sink = await SinkProcess.start(bench);
    await sink.reaches(ends, { everyMs: LOOK_EVERY_MS });
    const speed = (of: readonly number[]) => `${(median(of) * bytes / MB).toFixed(0)} MB/s`;
    const [ours, theirs] = [rates(name), rates(copy)];
    rows.push(row(
      id,
      `${name} / COPY of the same rows`,
      ratios(ours, theirs),
      null,
      `${speed(ours)} / ${speed(theirs)}, ${perSecond(ours)}; a sink's peak ${
        sink.memory().peak.toFixed(0)
      } MB`,
    ));
  }
  return rows;
}
