/** Numbers, times and axis ticks as people read them. */

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const FULL = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const THREE_DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** A number in little room: 1.2k, 3.4M. */
export function compact(value: number): string {
  return COMPACT.format(value).replace("K", "k");
}

/** A number with all its digits: 12,345. */
export function full(value: number): string {
  return FULL.format(value);
}

/** A duration with its unit: 0.23 ms, 14 ms, 1.5 s, 2 min. */
export function duration(ms: number): string {
  if (ms < 1000) return `${ms < 10 ? Number(ms.toPrecision(2)) : Math.round(ms)} ms`;
  return ms < 120_000
    ? `${THREE_DIGITS.format(ms / 1000)} s`
    : `${full(Math.round(ms / 60_000))} min`;
}

/** A time of day on the clock of this machine: 14:03:05. */
export function clock(date: Date): string {
  return date.toTimeString().slice(0, 8);
}

/** A scale's ends and where its ticks are. */
export interface Ticks {
  domain: [number, number];
  ticks: number[];
}

/** Ticks from 0 to a round number at or above `max`, at whole numbers. */
export function countTicks(max: number, wanted: number): Ticks {
  const rough = Math.max(max, 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const round = [1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10;
  const step = Math.max(1, round * power);
  const count = Math.max(1, Math.ceil(max / step));
  return {
    domain: [0, count * step],
    ticks: Array.from({ length: count + 1 }, (_, index) => index * step),
  };
}

/** Ticks at 1, 10, 100 … around all values, at least from 1 ms to 1 s. */
export function delayTicks(min: number, max: number): Ticks {
  const low = Math.min(0, Math.floor(Math.log10(min)));
  const high = Math.max(3, Math.ceil(Math.log10(max)));
  const every = high - low > 5 ? 2 : 1;
  const ticks: number[] = [];
  for (let power = low; power <= high; power += every) ticks.push(Number(`1e${power}`));
  return { domain: [Number(`1e${low}`), Number(`1e${high}`)], ticks };
}

/** Ticks around all values at 1, 2, 5, 10 …, or only at 1, 10, 100 … where the range is wide. */
export function logTicks(min: number, max: number): Ticks {
  const fine: number[] = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power++) {
    for (const factor of [1, 2, 5]) fine.push(Number(`${factor}e${power}`));
  }
  const low = fine.findLast((tick) => tick <= min) ?? min;
  const high = fine.find((tick) => tick >= max && tick > low) ?? max;
  const inside = fine.filter((tick) => tick >= low && tick <= high);
  const powers = inside.filter((tick) => Number.isInteger(Math.log10(tick)));
  return { domain: [low, high], ticks: inside.length > 6 && powers.length > 1 ? powers : inside };
}

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const STEPS = [1, 2, 5, 10, 15, 30]
  .flatMap((count) => [count, count * MINUTE])
  .concat([1, 2, 3, 6, 12, 24, 48, 168].map((count) => count * HOUR))
  .sort((a, b) => a - b);

/** The smallest round number of seconds that divides a span into at most `most` parts. */
export function timeStep(seconds: number, most: number): number {
  return STEPS.find((step) => seconds / step <= most) ?? seconds;
}

const SPANS = [5, 10, 20, 30, 60, 120, 300, 600, 900, 1800].concat(
  [1, 2, 3, 6, 12, 24].map((n) => n * HOUR),
);

/** The time that an axis shows, in seconds: it grows by steps, so that what is drawn stays where it is in between. */
export function spanFor(seconds: number): number {
  return SPANS.find((span) => seconds <= span) ?? Math.ceil(seconds / (24 * HOUR)) * 24 * HOUR;
}

/** Seconds since a start, on an axis that shows a span of seconds: 40 s; 1:30. */
export function elapsed(seconds: number, span: number): string {
  if (span <= 2 * MINUTE) return `${seconds} s`;
  const parts = [Math.floor(seconds / MINUTE) % 60, seconds % MINUTE];
  const two = (part: number) => String(part).padStart(2, "0");
  return span < HOUR
    ? `${parts[0]}:${two(parts[1] ?? 0)}`
    : `${Math.floor(seconds / HOUR)}:${parts.map(two).join(":")}`;
}
