/**
 * Targets that have some of the partitions: `targets[].partitions`. Those that have such a range share all partitions
 * among them, each exactly once, so that no event is without a target; a target without one has all.
 * @module
 */

/** Partitions from one to another, both of them included. */
interface Range {
  first: number;
  last: number;
}

/** Reads a range, such as `0-31`, or `3`; `null` for a text that is none. */
export function rangeIn(text: string): Range | null {
  const [, from, to = from] = /^(\d{1,3})(?:-(\d{1,3}))?$/.exec(text) ?? [];
  const [first, last] = [Number(from), Number(to)];
  return first <= last ? { first, last } : null;
}

/** A target, as far as is read here: of a file with mistakes, any part may be missing. */
type Ranged = { readonly name?: unknown; readonly partitions?: unknown } | null | undefined;

function rangesOf(targets: readonly Ranged[]): (Range & { index: number; name: unknown })[] {
  const ranges = targets.flatMap((target, index) => {
    const { name, partitions } = target ?? {};
    const range = typeof partitions === "string" ? rangeIn(partitions) : null;
    return range === null ? [] : [{ ...range, index, name }];
  });
  return ranges.sort((a, b) => a.first - b.first);
}

/** Whether any target has a range. */
export const hasRanges = (targets: readonly Ranged[]): boolean =>
  targets.some((target) => target?.partitions !== undefined);

/** How many partitions the ranges have together; `null` where no target has one. */
export function partitionsInRanges(targets: readonly Ranged[]): number | null {
  const last = rangesOf(targets).at(-1)?.last;
  return last === undefined ? null : last + 1;
}

/**
 * Why the ranges do not have each partition exactly once, and of which target that is to be told; `null` where they do,
 * or there are none.
 * @param partitions how many there are; `auto` where that is not known yet
 */
export function rangeProblem(
  targets: readonly Ranged[],
  partitions: number | "auto",
): { index: number; message: string } | null {
  let next = 0;
  let before: unknown;
  const ranges = rangesOf(targets);
  for (const { first, last, index, name } of ranges) {
    if (first < next) {
      const message =
        `partition ${first} is in the range of ${before} as well; end the one range before the other`;
      return { index, message };
    }
    if (first > next) {
      const message =
        `no target's range has partition ${next}; begin this one there, or add a target that has it`;
      return { index, message };
    }
    [next, before] = [last + 1, name];
  }
  const index = ranges.at(-1)?.index;
  if (index === undefined || partitions === "auto" || next === partitions) return null;
  const message = next > partitions
    ? `expected at most ${partitions - 1}, the last of ${partitions} partitions, got ${next - 1}`
    : `no target's range has partition ${next} of ${partitions}; end this one at ${
      partitions - 1
    }, or add a target ` +
      "that has the others";
  return { index, message };
}

/** Whether a target has a partition. One that the configuration does not name has all. */
export function hasPartition(
  targets: readonly { readonly name: string; readonly partitions?: string }[],
  name: string,
  partition: number,
): boolean {
  const text = targets.find((target) => target.name === name)?.partitions;
  const range = text === undefined ? null : rangeIn(text);
  return range === null || range.first <= partition && partition <= range.last;
}
