/**
 * The dead letter in Kafka: the topic `writebehind_dead_letter`.
 * @module
 */

import { Buffer } from "node:buffer";
import type { PartitionKeys } from "../../redis/keys.ts";
import { fieldsOf, fitting, letterOf } from "../common.ts";
import type {
  DeadLetter,
  DeadLetterEvent,
  DeadLetters,
  DeadLetterSelection,
  DeadLetterState,
  HeldDeadLetters,
  LetterStream,
  ParkedDocument,
} from "../dead_letters.ts";
import { Held } from "./held_letters.ts";
import { byDocument, type Letter } from "./letters.ts";
import { changing, type Shared } from "./session.ts";
import { changedIn } from "./states.ts";

/** What could not be stored of a configuration's entities. */
export class KafkaDeadLetters implements DeadLetters {
  #shared: Shared;
  #anyRow: (entity: string) => Promise<{ id: string; payload: string } | null>;

  /** @param anyRow a document of an entity's topic */
  constructor(
    shared: Shared,
    anyRow: (entity: string) => Promise<{ id: string; payload: string } | null>,
  ) {
    this.#shared = shared;
    this.#anyRow = anyRow;
  }

  async *list(entity: string, state: DeadLetterState | "all"): AsyncGenerator<DeadLetter> {
    await this.#shared.letters.refresh();
    const letters = this.#shared.letters.all().filter((letter) =>
      letter.entity === entity && (state === "all" || letter.state === state)
    );
    yield* byDocument(letters, ({ state }) => state).map((group) => {
      const [newest] = group;
      // Those that only wait behind another have no code; the one that was tried says why.
      const { sqlstate, reason, attempts } = group.find(({ sqlstate }) => sqlstate !== "") ??
        newest!;
      const times = {
        first_at: group.map(({ first_at }) => first_at).sort()[0]!,
        last_at: group.map(({ last_at }) => last_at).sort().at(-1)!,
      };
      const told = toldOf({ ...newest!, sqlstate, reason, attempts, ...times });
      const order = Math.min(...group.map(({ id }) => id));
      return { order, letter: { ...told, waiting: group.length - 1 } };
    }).sort((a, b) => a.letter.firstAt.getTime() - b.letter.firstAt.getTime() || a.order - b.order)
      .map(({ letter }) => letter);
  }

  async read(id: number): Promise<DeadLetterEvent | null> {
    const { letters } = this.#shared;
    await letters.refresh();
    const letter = letters.all().find((letter) => letter.id === id);
    if (!letter) return null;
    const { ts, fields } = letter;
    const payload = (await letters.payloadsOf([letter])).get(id)!;
    return { ...toldOf(letter), ts, payload, fields: fieldsOf(fields) };
  }

  async *documents(
    { stream, entity }: PartitionKeys,
    selection: DeadLetterSelection,
    maxBytes: number,
  ): AsyncGenerator<ParkedDocument[]> {
    await this.#shared.letters.refresh();
    const parked = this.#parkedOf(stream, entity);
    const groups = byDocument(parked)
      // An event stands for its document, and so for all that is parked of it.
      .filter((group) => selected(group, selection).length > 0)
      .map((group) => {
        const { id, doc_id } = group[0]!; // the newest
        const read = this.#shared.address.every_event ? group : group.slice(0, 1);
        return { id, doc_id, bytes: read.reduce((sum, { bytes }) => sum + bytes, 0) };
      })
      .sort((a, b) => a.id - b.id);
    if (groups.length === 0) return;
    yield* fitting(
      groups.map(({ id, doc_id, bytes }) => ({ id: String(id), docId: bytesOf(doc_id), bytes })),
      maxBytes,
    );
  }

  async streams(entity: string): Promise<string[]> {
    const { letters } = this.#shared;
    await letters.refresh();
    const parked = letters.all().filter((letter) =>
      letter.entity === entity && letter.state === "parked"
    );
    return [...new Set(parked.map(({ stream }) => stream))];
  }

  #parkedOf(stream: string, entity: string): Letter[] {
    return this.#shared.letters.parkedOf(stream).filter((letter) => letter.entity === entity);
  }

  async discard(
    of: LetterStream,
    selection: DeadLetterSelection,
    dryRun: boolean,
  ): Promise<number> {
    const { letters } = this.#shared;
    const found = () => selected(this.#parkedOf(of.stream, of.entity), selection);
    await letters.refresh();
    if (dryRun || found().length === 0) return found().length;
    return await changing(this.#shared, of, async (session) => {
      const discarded = found();
      const messages = await letters.changing(
        new Map(discarded.map((letter) => [letter, { state: "discarded" }])),
      );
      await session.write((state) => Promise.resolve({ messages, state: changedIn(state) }));
      return discarded.length;
    });
  }

  async discardedAmong({ stream }: PartitionKeys, streamIds: string[]): Promise<string[]> {
    const { letters } = this.#shared;
    await letters.refresh();
    return letters.all()
      .filter((letter) => letter.stream === stream && letter.state === "discarded")
      .map(({ stream_id }) => stream_id)
      .filter((id) => streamIds.includes(id));
  }

  async hold(
    keys: PartitionKeys,
    work: (held: HeldDeadLetters) => Promise<boolean>,
  ): Promise<void> {
    await changing(this.#shared, keys, async (session, keep) => {
      const anyRow = () => this.#anyRow(keys.entity);
      const held = new Held(this.#shared, keys, session, keep, anyRow);
      if (await work(held)) await held.write();
    });
  }
}

const bytesOf = (hex: string | null): Buffer | null =>
  hex === null ? null : Buffer.from(hex, "hex");

const toldOf = (letter: Letter): Omit<DeadLetter, "waiting"> =>
  letterOf({ ...letter, doc_id: bytesOf(letter.doc_id) }, (time: string) => new Date(time));

/** Those of the events that are selected. */
function selected(letters: Letter[], selection: DeadLetterSelection): Letter[] {
  if ("docId" in selection) {
    const hex = Buffer.from(selection.docId).toString("hex");
    return letters.filter(({ doc_id }) => doc_id === hex);
  }
  if (!("streamId" in selection)) return letters;
  return letters.filter(({ stream_id }) => stream_id === selection.streamId);
}
