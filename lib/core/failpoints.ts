/**
 * Places where a test stops the sink, to kill it there. Outside such a test a failpoint costs one comparison
 * with `undefined`.
 * @module
 */

/** A place in the life of a batch. */
export type Failpoint =
  | "claiming"
  | "claimed"
  | "begun"
  | "reading"
  | "read"
  | "coalesced"
  | "parking behind"
  | "applying"
  /** a statement of this name was sent to the target, and its answer has not been read */
  | `sent ${string}`
  | "applied"
  | "trimming"
  | "trimmed"
  | "probing"
  | "parking"
  | "resending"
  | "forwarded"
  | "resent"
  | "expiring"
  | "settling"
  | "settled"
  | "releasing"
  /** what `deno task repartition` has done last */
  | `repartition ${string}`;

const wanted = Deno.env.get("WRITEBEHIND_FAILPOINT");
const [name, times = "1"] = wanted?.split(":") ?? [];
let left = Number(times);

/** Stops for ever at the place that `WRITEBEHIND_FAILPOINT` (`name` or `name:times`) names. */
export const failpoint: ((place: Failpoint) => Promise<void>) | undefined = wanted === undefined
  ? undefined
  : async (place) => {
    if (place !== name || --left > 0) return;
    // deno-lint-ignore writebehind/console-in-commands -- the test waits for this line
    console.log(`failpoint ${place}`);
    await new Promise(() => {});
  };
