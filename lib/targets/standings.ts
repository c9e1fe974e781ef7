/**
 * Where a target stands and what the streams hold behind that, read together: so that the two make one figure.
 * @module
 */

import { WriteBehindError } from "../core/errors.ts";
import { awaitedLater, within } from "../core/promises.ts";
import { compareStreamIds } from "../core/stream_ids.ts";
import type { Redis } from "../redis/client.ts";
import type { Config } from "../config/load.ts";
import { allPartitions, type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { type Lag, readLag } from "../redis/lag.ts";
import { readRegistration } from "../redis/registrations.ts";
import { lookAtShape } from "../redis/shape.ts";
import type { Offsets, Standing } from "./target.ts";

/** A partition in the target, and how far it is behind its stream. */
export interface StandingAndLag {
  /** as the target has it */
  standing: Standing;
  /** entries behind its offset */
  lag: Lag;
}

/** The partitions of an entity that a target has, for who only looks on. */
export interface View {
  /** as the streams are named now, in order */
  partitions: PartitionKeys[];
  /** while it is repartitioned, under the names of its other number: parked events may be there already, or still */
  others: PartitionKeys[];
  /** whether it is being repartitioned: what is parked may be here or there */
  isMoving: boolean;
}

/**
 * The partitions to look at: as Redis says it just now, so that who looks on for a long time follows a repartition.
 * @param target its name
 * @throws {ConfigError} where the configuration has another number of them
 */
export async function viewOf(
  redis: Redis,
  config: Config,
  entity: string,
  target: string,
): Promise<View> {
  const { shape, other } = await lookAtShape(redis, config, entity);
  const partitions = partitionsOf(config, entity, target, shape);
  if (other === null) return { partitions, others: [], isMoving: false };
  const seen = new Set(partitions.map(({ stream }) => stream));
  const others = allPartitions(config, entity, other).filter(({ stream }) => !seen.has(stream));
  return { partitions, others, isMoving: true };
}

/** Events that are parked under the other names of a view, where no partition of it counts them. */
export async function parkedInOthers(
  offsets: Pick<Offsets, "standing">,
  { others }: Pick<View, "others">,
): Promise<number> {
  const standings = others.map((keys) => offsets.standing(keys, { waits: false }));
  return (await Promise.all(standings)).reduce((sum, { parked }) => sum + parked, 0);
}

/** After so many looks the newest one is taken. */
const MOST_LOOKS = 20;

/**
 * Reads where partitions stand, and the lag behind just those offsets: the target first, so that no entry is counted
 * twice, and again where the stream was trimmed past its offset meanwhile, so that none is missing.
 * @param options.waits whether to look who holds up the batches, which should not be asked again and again
 * @returns in the order of `partitions`; the first one has what is parked in `others` besides
 * @throws the error of a server that does not answer
 */
export async function readStandings(
  redis: Redis,
  offsets: Pick<Offsets, "standing">,
  { partitions, others }: View,
  { waits }: { waits: boolean },
): Promise<StandingAndLag[]> {
  const elsewhere = awaitedLater(parkedInOthers(offsets, { others }));
  const standings = await Promise.all(partitions.map((keys) => offsets.standing(keys, { waits })));
  const lags = await readLag(
    redis,
    partitions.map(({ stream }, index) => ({ stream, offset: standings[index]!.offset })),
  );
  const read = await Promise.all(partitions.map(async (keys, index) => {
    let standing = standings[index]!;
    let lag = lags[index]!;
    for (let looks = 1; !lag.certain && looks < MOST_LOOKS; looks++) {
      const again = await offsets.standing(keys, { waits });
      const { offset } = again;
      // The stream has lost what was before the offset, or never had it.
      if (offset === standing.offset) break;
      [standing, lag] = [again, (await readLag(redis, [{ stream: keys.stream, offset }]))[0]!];
    }
    return { standing, lag };
  }));
  const more = await elsewhere;
  return read.map(({ standing, lag }, index) =>
    index > 0 ? { standing, lag } : { standing: withMoreParked(standing, more), lag }
  );
}

/** A partition's standing, with events that are parked under other names. */
export const withMoreParked = (standing: Standing, more: number): Standing => (
  { ...standing, parked: standing.parked + more }
);

/**
 * What is known of a target that does not answer, by what its sinks have told Redis: they tell how far it is before they
 * trim what it has passed. Who looks on may have read its offset a moment before they moved it, and may be cut off from
 * it alone, while they go on. Who owns a partition, and what is parked, is as it was.
 * @param target its name
 * @param last what was read when it answered last, in the order of `partitions`
 * @throws the error that Redis answers
 */
export async function readTold(
  redis: Redis,
  target: string,
  partitions: PartitionKeys[],
  last: readonly StandingAndLag[],
): Promise<StandingAndLag[]> {
  const known = new Map(partitions.map(({ stream }, index) => [stream, last[index]!.standing]));
  const standing = async (keys: PartitionKeys): Promise<Standing> => {
    const standing = known.get(keys.stream)!;
    const { offset = "0-0" } = await readRegistration(redis, keys, target) ?? {};
    return compareStreamIds(offset, standing.offset) > 0 ? { ...standing, offset } : standing;
  };
  const view = { partitions, others: [], isMoving: false };
  const read = await readStandings(redis, { standing }, view, { waits: false });
  return read.map(({ standing, lag }, index) => {
    const passed = Math.max(0, lag.entriesRead - last[index]!.lag.entriesRead);
    return { standing: { ...standing, events: standing.events + passed }, lag };
  });
}

/** How long a target may take to answer, in ms, before what it said last is taken. */
const PATIENCE_MS = 1000;

/**
 * Standings that are there also while the target is not: where it does not answer, what it said last. How far it has
 * come since, {@linkcode readTold} knows.
 */
export class RememberedOffsets implements Pick<Offsets, "standing"> {
  /** whether every answer was the target's own since this was set */
  answers = true;
  readonly #offsets: Offsets;
  readonly #last = new Map<string, Standing>();
  /** questions that have no answer yet: they are not asked twice, nor waited for twice */
  readonly #asked = new Map<string, Promise<Standing>>();

  constructor(offsets: Offsets) {
    this.#offsets = offsets;
  }

  /** @throws the target's error where it has never answered */
  async standing(keys: PartitionKeys): Promise<Standing> {
    const { stream } = keys;
    const late = this.#asked.has(stream);
    const asked = this.#asked.get(stream) ?? this.#ask(keys);
    try {
      const last = this.#last.get(stream);
      if (!last) return await asked;
      const ms = late ? 0 : PATIENCE_MS;
      return await within(ms, asked, () => new WriteBehindError(`no answer within ${ms} ms`));
    } catch (error) {
      const last = this.#last.get(stream);
      if (!last) throw error;
      this.answers = false;
      return last;
    }
  }

  #ask(keys: PartitionKeys): Promise<Standing> {
    const { stream } = keys;
    const asked = this.#offsets.standing(keys, { waits: false })
      .then((standing) => {
        this.#last.set(stream, standing);
        return standing;
      })
      .finally(() => this.#asked.delete(stream));
    this.#asked.set(stream, asked);
    return awaitedLater(asked);
  }
}
