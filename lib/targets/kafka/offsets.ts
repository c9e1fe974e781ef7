/**
 * Where the partitions stand in Kafka. Reads only, also where there are no topics yet.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import type { Offsets, Standing } from "../target.ts";
import { isHeld } from "./locks.ts";
import { lockOf, type Shared } from "./session.ts";
import { initialState } from "./states.ts";

/** Offsets in the topic `writebehind_offset`, owners by their groups. */
export class KafkaOffsets implements Offsets {
  #shared: Shared;

  constructor(shared: Shared) {
    this.#shared = shared;
  }

  async offset({ stream }: Pick<PartitionKeys, "stream">): Promise<string> {
    await this.#shared.states.refresh({ strict: false });
    return this.#shared.states.of(stream)?.last_id ?? "0-0";
  }

  async standing({ stream }: PartitionKeys): Promise<Standing> {
    const { client, states, letters } = this.#shared;
    const [live] = await Promise.all([
      isHeld(client, lockOf(this.#shared, stream)),
      states.refresh({ strict: false }),
      letters.refresh({ strict: false }),
    ]);
    const { last_id, events, witness, went_back, went_back_at, owner } = states.of(stream) ??
      initialState(stream);
    return {
      offset: last_id,
      events,
      witness,
      wentBack: went_back,
      wentBackAt: went_back_at === null ? null : new Date(went_back_at),
      owner,
      live,
      // It ends when the broker has heard nothing for a time, not at one.
      leaseSeconds: null,
      parked: letters.parkedOf(stream).length,
      waitsFor: null,
    };
  }
}
