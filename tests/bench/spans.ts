/** Row 16: what a span costs that nobody asked for. */

import { traced } from "writebehind/core/tracing.ts";
import { median, type Row, row } from "./measure.ts";
import type { Workbench } from "./workbench.ts";
import { casesOf, insertOf, run } from "./write.ts";

/** In each round calls with and without a span take turns this often, and the median turn counts. */
const TURNS = 50;
const CALLS_A_TURN = 4000;

/** The part of a receipt that a write's span tells. */
interface Told {
  streamId: string;
  repeated: boolean;
}

/** As short as something awaited can be, so that the span is all that there is to see. */
const work = (): Promise<Told> => Promise.resolve({ streamId: "1-1", repeated: false });

/** As a write has it. */
const inSpan = (verb: string, entity: string): Promise<Told> =>
  traced(`${verb} ${entity}`, {
    kind: "producer",
    before: () => ({ "writebehind.entity": entity, "writebehind.verb": verb }),
    after: ({ streamId, repeated }) => ({
      "messaging.message.id": streamId,
      "writebehind.repeated": repeated,
    }),
  }, () => work());

/**
 * The calls cannot be taken out of a write that runs, and what they cost is far less than two runs of the same writes
 * differ by. So a span is measured by itself, and held against the time of an insert in the same run.
 */
export async function spanRows(bench: Workbench): Promise<Row[]> {
  const { sizes, rounds, step } = bench;
  const cases = casesOf(sizes.writes * 8);
  const [spans, inserts]: [number[], number[]] = [[], []];
  for (let round = 0; round <= rounds; round++) {
    step(round === 0 ? "warm-up: spans" : `round ${round} of ${rounds}: spans, and inserts`);
    await bench.clear();
    const insert = 1e9 * await run(cases, 64, insertOf(bench), []) / cases.length;
    const span = await spanNs();
    if (round === 0) continue;
    spans.push(span);
    inserts.push(insert);
  }
  const note = `${median(spans).toFixed(0)} ns / ${(median(inserts) / 1000).toFixed(1)} µs`;
  const shares = inserts.map((insert, round) => insert / (insert + spans[round]!));
  return [
    row("16", "a span that nobody asked for, in ns, at most", spans, { atMost: 100 }),
    row("16a", "an insert, 64 in flight / the same and its span once more", shares, {
      atLeast: 0.98,
    }, note),
  ];
}

/** What a call takes longer in a span, in ns. */
async function spanNs(): Promise<number> {
  const time = async (call: () => Promise<Told>) => {
    const since = performance.now();
    for (let calls = 0; calls < CALLS_A_TURN; calls++) await call();
    return 1e6 * (performance.now() - since) / CALLS_A_TURN;
  };
  const more: number[] = [];
  for (let turn = 0; turn < TURNS; turn++) {
    const without = await time(work);
    more.push(await time(() => inSpan("insert", "session")) - without);
  }
  return median(more);
}
