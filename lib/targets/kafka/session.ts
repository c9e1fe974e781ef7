/**
 * Writing to a partition: a connection and a producer of its own. Whoever begins a session fences off all others of the
 * partition, and has what they have committed before it.
 * @module
 */

import { delay } from "../../core/delay.ts";
import { WriteBehindError } from "../../core/errors.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { ownershipLost } from "../common.ts";
import { type Claim, ParkedChangedError } from "../target.ts";
import { Client, type KafkaAddress } from "./client.ts";
import { type DocumentsTopic, newestVersion } from "./documents.ts";
import { FencedError, isOfTheNetwork } from "./errors.ts";
import type { Letters } from "./letters.ts";
import { GroupLock, isHeld } from "./locks.ts";
import type { Message } from "./messages.ts";
import { Producer } from "./producer.ts";
import { initialState, type State, type States } from "./states.ts";
import type { Topics } from "./topics.ts";

/** What all parts of a target share. */
export interface Shared {
  readonly address: KafkaAddress;
  /** for reading */
  readonly client: Client;
  readonly topics: Topics;
  readonly states: States;
  readonly letters: Letters;
  /** the topic of an entity */
  topicOf(entity: string): string;
  /** the same, with what goes there */
  documentsOf(entity: string): DocumentsTopic;
  /** how long a lock holds without a sign of life, in ms */
  readonly sessionMs: number;
}

/** How often it is looked whether a lock is free, in ms. */
const LOOK_MS = 20;
/** How long somebody else may hold a partition for a change, in ms. */
const CHANGE_MS = 60_000;
/** How often a session begins anew that another has fenced off meanwhile. */
const MOST_TURNS = 20;

/** What is to be written together with a partition's new state. */
export interface Change {
  state: State;
  messages: Message[];
}

/** The names of a partition's locks, and of its transactions. */
export const lockOf = (shared: Shared, stream: string): string =>
  `${shared.topics.names.offset}.${stream}`;
const changeLockOf = (shared: Shared, stream: string) => `${lockOf(shared, stream)}.change`;

/** Which partition it is. */
type Place = Pick<PartitionKeys, "entity" | "stream">;

/** One partition's transactions. */
export class Session {
  #shared: Shared;
  #keys: Place;
  #client: Client;
  #producer: Producer;
  #state: State | undefined;
  /** whether it must begin anew: another may have fenced it off, or an outcome is not known */
  #stale = true;
  #turn: Promise<unknown> = Promise.resolve();
  #ended: Error | undefined;
  /** lets those who wait for their work fail */
  #waiting = new Set<(reason: Error) => void>();
  #isOwner: boolean;

  /**
   * @param options.isOwner whether it waits while somebody holds the partition for a change, and begins anew when it was
   * fenced off; else being fenced off is its end
   */
  constructor(shared: Shared, keys: Place, { isOwner }: { isOwner: boolean }) {
    this.#shared = shared;
    this.#keys = keys;
    this.#isOwner = isOwner;
    this.#client = new Client(shared.address);
    this.#producer = new Producer(this.#client, lockOf(shared, keys.stream));
  }

  /** The partition's state, as this session has read or written it last. */
  get state(): State {
    return this.#state!;
  }

  /** Begins, or begins anew: what others had under way is over, and what they have committed is read. */
  async begin(): Promise<void> {
    const { states, letters, client } = this.#shared;
    const { stream, entity } = this.#keys;
    if (this.#isOwner) await this.#waitForChange();
    this.#going();
    this.#stale = true;
    await this.#producer.begin();
    // Only now: before, another might still have committed something.
    await states.refresh();
    await letters.refresh();
    const state = states.of(stream) ?? initialState(stream);
    const topic = this.#shared.topicOf(entity);
    this.#state = state.top === null
      ? { ...state, top: String(await newestVersion(client, topic)) }
      : state;
    this.#going();
    this.#stale = false;
  }

  async #waitForChange(): Promise<void> {
    const { client } = this.#shared;
    const deadline = performance.now() + CHANGE_MS;
    while (await isHeld(client, changeLockOf(this.#shared, this.#keys.stream))) {
      this.#going();
      if (performance.now() > deadline) {
        throw new WriteBehindError("timeout: a replay does not end");
      }
      await delay(LOOK_MS);
    }
  }

  /** Works alone, one after the other. Fails at once where the session is ended, whatever becomes of the work. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    this.#going();
    const before = this.#turn;
    const mine = (async () => {
      await before.catch(() => {}); // whoever waits for it gets its error
      this.#going();
      return await work();
    })();
    this.#turn = mine;
    mine.catch(() => {}); // where the session is ended first, nobody waits for it
    // One for each: a promise that lives as long as the session would keep all that it raced with.
    const { promise: ended, reject } = Promise.withResolvers<never>();
    this.#waiting.add(reject);
    try {
      return await Promise.race([mine, ended]);
    } finally {
      this.#waiting.delete(reject);
    }
  }

  /**
   * Writes what `make` makes of the state, in one transaction: again with what has changed, where another has fenced this
   * session off meanwhile.
   * @param make returns `null` where nothing is to be written; may be called several times
   */
  async write(make: (state: State) => Promise<Change | null>): Promise<void> {
    for (let turn = 1;; turn++) {
      try {
        if (this.#stale) await this.begin();
        const change = await make(this.#state!);
        if (change === null) return;
        await this.#send([...change.messages, this.#shared.states.messageOf(change.state)]);
        await this.#producer.end(true);
        this.#state = change.state;
        this.#stale = false;
        return;
      } catch (error) {
        if (!(error instanceof FencedError) || !this.#isOwner || turn === MOST_TURNS) throw error;
        this.#stale = true;
      }
    }
  }

  /**
   * Writes what `change` makes of the state, and nothing else, as {@linkcode write} does.
   * @param change returns `null` where nothing is to be written; may be called several times
   */
  writeState(change: (state: State) => State | null): Promise<void> {
    return this.write((state) => {
      const changed = change(state);
      return Promise.resolve(changed && { state: changed, messages: [] });
    });
  }

  /** Writes messages in a transaction that is taken back. */
  async attempt(messages: Message[]): Promise<void> {
    if (this.#stale) await this.begin();
    await this.#send(messages);
    await this.#producer.end(false);
    this.#stale = false;
  }

  /** Writes messages in the open transaction. Where they are refused, nothing is left open, and it must begin anew. */
  async #send(messages: Message[]): Promise<void> {
    this.#stale = true;
    try {
      await this.#producer.send(messages, () => this.#going());
      this.#going();
    } catch (error) {
      const answered = !isOfTheNetwork(error) && !(error instanceof FencedError);
      // Else readers would wait for its end until the next begin.
      if (answered && !this.#ended) await this.#producer.end(false).catch(() => {}); // the error is told
      throw error;
    }
  }

  #going(): void {
    if (this.#ended) throw this.#ended;
  }

  /** Ends it: whoever waits fails with `reason`, and nothing is sent any more. */
  async end(reason: Error): Promise<void> {
    if (this.#ended) return;
    this.#ended = reason;
    for (const fail of this.#waiting) fail(reason);
    await this.#client.close();
  }
}

/** Sees that a claim still holds. @throws {OwnershipLostError | ParkedChangedError} where it does not */
export function checkClaim({ keys, epoch, offset, parkedVersion }: Claim, state: State): void {
  if (state.epoch !== epoch) throw ownershipLost(keys);
  if (state.last_id === offset && state.parked_version === parkedVersion) return;
  throw new ParkedChangedError(`what is parked of ${keys.stream} has changed`);
}

/**
 * Changes a partition, whoever owns it: its owner waits, and goes on with what has changed.
 * @param work writes with the session; `keep` says that it still goes on
 */
export async function changing<T>(
  shared: Shared,
  keys: Place,
  work: (session: Session, keep: () => Promise<void>) => Promise<T>,
): Promise<T> {
  const lock = await takeChangeLock(shared, keys.stream);
  const session = new Session(shared, keys, { isOwner: false });
  try {
    await session.begin();
    return await work(session, async () => {
      if (!await lock.keep()) throw new WriteBehindError(TAKEN_BACK);
    });
  } catch (error) {
    if (!(error instanceof FencedError)) throw error;
    throw new WriteBehindError(TAKEN_BACK, { cause: error });
  } finally {
    await session.end(new WriteBehindError("it is over"));
    await lock.leave();
  }
}

const TAKEN_BACK =
  "it took too long, so the partition's sink went on, and nothing was changed: run it again";

async function takeChangeLock(shared: Shared, stream: string): Promise<GroupLock> {
  const { address, sessionMs, client } = shared;
  const group = changeLockOf(shared, stream);
  const deadline = performance.now() + CHANGE_MS;
  while (performance.now() < deadline) {
    const lock = await isHeld(client, group)
      ? null
      : await GroupLock.take(address, group, "change", sessionMs);
    if (lock) return lock;
    await delay(LOOK_MS);
  }
  throw new WriteBehindError(`timeout: somebody else changes ${stream}`);
}
