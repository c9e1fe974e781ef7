/**
 * What offsets belong to, in Kafka. A topic is known by the identity that the cluster gives it: another one of the same
 * name has another.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import { belongingByMark, tableProblems } from "../common.ts";
import type { Adoption, Belonging, Claim, Doubt, Identities } from "../target.ts";
import type { KafkaOwnership } from "./lease.ts";
import { changing, type Shared } from "./session.ts";
import { changedIn, type State } from "./states.ts";

/** Identities in the topic `writebehind_offset`. */
export class KafkaIdentities implements Identities {
  #shared: Shared;
  #ownership: KafkaOwnership;

  constructor(shared: Shared, ownership: KafkaOwnership) {
    this.#shared = shared;
    this.#ownership = ownership;
  }

  async read(keys: PartitionKeys, streams: string[]): Promise<Belonging> {
    const { client, states, letters, topics } = this.#shared;
    await Promise.all([states.refresh(), letters.refresh()]);
    const name = this.#shared.topicOf(keys.entity);
    const topic = await client.topic(name, { fresh: true });
    const found = { mark: topic?.id ?? null, there: topic !== null };
    const belonging = belongingByMark(
      name,
      keys,
      streams,
      states.all(),
      found,
      (time) => new Date(time),
    );
    return {
      ...belonging,
      rows: belonging.source === null ? await this.#rowsOf(name) : null,
      gone: await topics.gone(),
      parkedLast: letters.at(keys.stream, belonging.offset) !== undefined,
    };
  }

  /** Whatever is in the topic: nobody else's can be told from ours without reading it. */
  async #rowsOf(name: string): Promise<Belonging["rows"]> {
    const { client } = this.#shared;
    const topic = await client.topic(name);
    if (topic === null) return "none";
    const [begins, ends] = [await client.bounds(topic, "begin"), await client.bounds(topic, "end")];
    return begins.some((begin, partition) => begin < ends[partition]!) ? "ours" : "none";
  }

  async note(claim: Claim, source: string): Promise<void> {
    const topic = await this.#shared.client.topic(this.#shared.topicOf(claim.keys.entity));
    await this.#change(claim, (state) => ({ ...state, source, mark: topic?.id ?? null }));
  }

  async look({ keys }: Claim): Promise<string | null> {
    const { client, states, topics } = this.#shared;
    const name = this.#shared.topicOf(keys.entity);
    const topic = await client.topic(name, { fresh: true });
    const mark = states.of(keys.stream)?.mark;
    if (mark != null && mark !== topic?.id) return tableProblems.another(name, keys);
    return topic === null ? null : await topics.problem(name);
  }

  async doubt(
    claim: Claim,
    reason: string,
    { keepWitness }: { keepWitness: boolean },
  ): Promise<void> {
    await this.#change(claim, (state) => {
      const { doubt, witness } = state;
      return {
        ...state,
        doubt: doubt?.includes(reason) ? doubt : doubt == null ? reason : `${doubt}; ${reason}`,
        doubt_at: new Date().toISOString(),
        witness: keepWitness ? witness : "0-0",
      };
    });
  }

  /** Changes what is noted, if the claim still holds. */
  async #change(claim: Claim, change: (state: State) => State): Promise<void> {
    const session = this.#ownership.sessionIfHeld(claim);
    await session?.alone(() =>
      session.writeState((state) => state.epoch === claim.epoch ? change(state) : null)
    );
  }

  async settle(keys: PartitionKeys, { reason, at }: Doubt): Promise<void> {
    const isSame = ({ doubt, doubt_at, refused }: State) =>
      doubt === reason && doubt_at === at.toISOString() && !refused;
    await changing(
      this.#shared,
      keys,
      (session) =>
        session.writeState((state) =>
          isSame(state) ? { ...state, doubt: null, doubt_at: null } : null
        ),
    );
  }

  async adopt(keys: PartitionKeys, adoption: Adoption): Promise<void> {
    const { source, offset, witness, others, doubt } = adoption;
    for (const stream of others) {
      await changing(
        this.#shared,
        { ...keys, stream },
        (session) => session.writeState((state) => ({ ...state, mark: null })),
      );
    }
    await changing(this.#shared, keys, (session) =>
      session.writeState((state) => ({
        ...changedIn(state),
        last_id: offset,
        witness,
        source,
        doubt,
        doubt_at: new Date().toISOString(),
        refused: 0,
        mark: null,
      })));
  }
}
