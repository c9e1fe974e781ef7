/** Statistics of interleaved rounds, and the row that they make. */

/** One line of the table: a figure against its goal. */
export interface Row {
  /** the row's number, with a letter where a row has several figures */
  id: string;
  name: string;
  /** the median of the rounds, and the range of all of them */
  value: number;
  min: number;
  max: number;
  /** `null` where the figure is only for people */
  goal: number | null;
  /** whether the goal is a limit from above */
  atMost: boolean;
  /** figures behind the value, such as the events a second of both sides */
  note: string;
}

/** What a row is held against. */
export type Goal = { atLeast: number } | { atMost: number } | null;

/** The value at a share of the values: 0.5 is the median, 0.99 the 99th percentile. */
export function quantile(values: readonly number[], share: number): number {
  if (values.length === 0) throw new Error("no values were measured");
  const sorted = [...values].sort((a, b) => a - b);
  const position = share * (sorted.length - 1);
  const below = sorted[Math.floor(position)]!;
  const above = sorted[Math.ceil(position)]!;
  return below + (above - below) * (position - Math.floor(position));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/**
 * A row from what each round measured.
 * @param values one a round: what was measured side by side is compared within its round, so that a busy
 * minute of the machine weighs on both sides
 */
export function row(
  id: string,
  name: string,
  values: readonly number[],
  goal: Goal,
  note = "",
): Row {
  return {
    id,
    name,
    value: median(values),
    min: Math.min(...values),
    max: Math.max(...values),
    goal: goal === null ? null : "atLeast" in goal ? goal.atLeast : goal.atMost,
    atMost: goal !== null && "atMost" in goal,
    note,
  };
}

/** Whether a row reaches its goal; a row without one does. */
export function passes({ value, goal, atMost }: Row): boolean {
  return goal === null || (atMost ? value <= goal : value >= goal);
}

/** `ours / base`, round by round. */
export function ratios(ours: readonly number[], base: readonly number[]): number[] {
  return ours.map((value, round) => value / base[round]!);
}

/** Shows that something is being measured. */
export type Step = (what: string) => void;

/** The figures of a contender, one a round. */
export type Figures<Name extends string> = (of: Name) => readonly number[];

/** Measures contenders in turn, round after round: a, b, a, b … */
export async function interleave<Name extends string>(
  contenders: readonly (readonly [Name, () => Promise<number>])[],
  rounds: number,
  step: Step,
): Promise<Figures<Name>> {
  const figures = new Map<Name, number[]>(contenders.map(([name]) => [name, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const [name, measure] of contenders) {
      step(`round ${round} of ${rounds}: ${name}`);
      figures.get(name)!.push(await measure());
    }
  }
  return (name) => {
    const measured = figures.get(name);
    if (measured === undefined) throw new Error(`${name} was not measured`);
    return measured;
  };
}

/** Runs `work` and returns how long it took, in seconds. */
export async function seconds(work: () => Promise<unknown>): Promise<number> {
  const since = performance.now();
  await work();
  return (performance.now() - since) / 1000;
}

/** A rate for people: `48.2k/s`. */
export function perSecond(values: readonly number[]): string {
  const rate = median(values);
  return rate >= 10_000 ? `${(rate / 1000).toFixed(1)}k/s` : `${Math.round(rate)}/s`;
}
