/**
 * The targets that a stream is carried on to, as its settings say: for trimming, which goes no further than the lowest
 * of them, and for people. What a target's own offset says is the truth.
 * @module
 */

import type { Redis } from "./client.ts";
import type { PartitionKeys } from "./keys.ts";
import { registerScript, runScript } from "./scripts/mod.ts";

/**
 * What a target may do with a stream:
 * - `active`: it is carried on to
 * - `paused`: an operator has stopped that; its events are kept
 * - `filling`: it is being added, and filled from a snapshot; its events are kept
 * - `detached`: it was so far behind that it has lost its place
 * - `removed`: an operator has given it up
 */
export type TargetState = "active" | "paused" | "filling" | "detached" | "removed";

/** Whether what a target in that state lacks is kept for it. */
export const hasPlace = (state: TargetState): boolean =>
  state !== "removed" && state !== "detached";

/** A target's field in the settings of a stream. */
export interface Registration {
  /** the target's name */
  name: string;
  state: TargetState;
  /** the offset that it has told last */
  offset: string;
  /** the entry that must still be in the stream; `0-0` for none */
  witness: string;
  /** what happens where it fills the stream */
  onFull: "stop" | "detach";
}

const FIELD = /^target:(.+)$/s;
const VALUE =
  /^(active|paused|filling|detached|removed) (\d{1,19}-\d{1,19}) (\d{1,19}-\d{1,19}) (stop|detach)$/;

/** All targets that a stream knows, in the order of their names. */
export async function readRegistrations(
  redis: Redis,
  { settings }: PartitionKeys,
): Promise<Registration[]> {
  const found: Registration[] = [];
  for (const [field, value] of Object.entries(await redis.hgetall(settings))) {
    const name = FIELD.exec(field)?.[1];
    if (name !== undefined) found.push(registrationOf(name, value));
  }
  return found.sort((a, b) => a.name < b.name ? -1 : 1);
}

/** One of them; `null` where the stream does not know it. */
export async function readRegistration(
  redis: Redis,
  { settings }: PartitionKeys,
  name: string,
): Promise<Registration | null> {
  const value = await redis.hget(settings, `target:${name}`);
  return value === null ? null : registrationOf(name, value);
}

/** The offset in a target's field; `undefined` where there is none. */
export function offsetIn(value: string | null): string | undefined {
  return value === null ? undefined : VALUE.exec(value)?.[2];
}

/** As the scripts read it: one that cannot be read says nothing of how far its target is. */
function registrationOf(name: string, value: string): Registration {
  const [, state, offset, witness, onFull] = VALUE.exec(value) ??
    ["", "active", "0-0", "0-0", "stop"];
  return {
    name,
    state: state as TargetState,
    offset: offset!,
    witness: witness!,
    onFull: onFull as Registration["onFull"],
  };
}

/** The other way round: what a stream's settings hold of a target. */
export const registrationText = (
  { state, offset, witness, onFull }: Omit<Registration, "name">,
): string => `${state} ${offset} ${witness} ${onFull}`;

/**
 * Registers a target, or notes its state and offset anew: nothing past the offset is trimmed from then on.
 * @param registration.offset `null`: the end of the stream
 * @param options.keeping states under which all stays as it is
 * @param options.expected what must be registered for that
 * @returns what is registered now; `null` where it is not as was expected
 */
export async function register(
  redis: Redis,
  { stream, settings }: PartitionKeys,
  registration: Omit<Registration, "offset"> & { offset: string | null },
  { keeping = [], expected }: {
    keeping?: TargetState[];
    expected?: Pick<Registration, "state" | "offset"> | undefined;
  } = {},
): Promise<Pick<Registration, "state" | "offset"> | null> {
  const { name, state, offset, witness, onFull } = registration;
  const reply = await runScript(redis, registerScript, [stream, settings], [
    name,
    offset ?? "",
    witness,
    onFull,
    state,
    `,${keeping.join(",")},`,
    expected ? `${expected.state} ${expected.offset}` : "",
  ]);
  const [is, at] = reply as [TargetState?, string?];
  return is === undefined ? null : { state: is, offset: at! };
}

/**
 * Notes what a target may do with a stream; how far it is stays as it was told.
 * @param keeping states under which it stays as it is
 * @returns the state that is noted now; `null` where the stream does not know it
 */
export async function setState(
  redis: Redis,
  { stream, settings }: PartitionKeys,
  name: string,
  state: TargetState,
  keeping: readonly TargetState[] = [],
): Promise<TargetState | null> {
  const args = [name, "=", "", "", state, `,${keeping.join(",")},`, ""];
  const reply = await runScript(redis, registerScript, [stream, settings], args);
  return (reply as TargetState[])[0] ?? null;
}
