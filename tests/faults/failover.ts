/** What the tests of failovers share: writers that go on, and what must hold afterwards. */

import assert from "node:assert/strict";
import { caughtUp, insertDocument, type RedisWriteBehind, repairTarget, verify } from "writebehind";
import { assertEqual, documentsOf, type Pipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** Writes one document after the other, and beside them others that a replica has to confirm, until it is stopped. */
export class Writer {
  /** ids of what a replica has confirmed */
  readonly confirmed: string[] = [];
  /** ids of what was answered */
  readonly written: string[] = [];
  /** how often which error came */
  readonly errors = new Map<string, number>();
  /** the longest time between two that were answered, in ms */
  longest = 0;
  #pipeline: Pipeline;
  #isWanted: (id: string) => boolean;
  #stopped = false;
  #running: Promise<unknown>;

  /** @param isWanted whether to write a document of this id. @default {all} */
  constructor(pipeline: Pipeline, isWanted: (id: string) => boolean = () => true) {
    this.#pipeline = pipeline;
    this.#isWanted = isWanted;
    this.#running = Promise.all([
      this.#run("memory", this.written),
      this.#run("replicas", this.confirmed),
    ]);
  }

  async #run(durability: "memory" | "replicas", ids: string[]): Promise<void> {
    const { redis, config } = this.#pipeline;
    let answered = performance.now();
    for (let n = 0; !this.#stopped; n++) {
      const id = `${durability}-${n}`;
      if (!this.#isWanted(id)) continue;
      try {
        await insertDocument(redis, config, "session", { n }, id, { durability });
        ids.push(id);
        const now = performance.now();
        this.longest = Math.max(this.longest, now - answered);
        answered = now;
      } catch (error) {
        const { name } = error as Error;
        this.errors.set(name, (this.errors.get(name) ?? 0) + 1);
      }
      await new Promise((resolve) => setTimeout(resolve, 5)); // as a program that has more to do
    }
  }

  /** Waits until there are some more of those. */
  async more(what: string, ids = this.confirmed): Promise<void> {
    const goal = ids.length + 10;
    await waitFor(() => ids.length >= goal, { what, deadlineMs: 40_000 });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }
}

/** What was confirmed is there; what else was lost is repaired; then rows and documents are equal. */
export async function assertSound(pipeline: Pipeline, sink: RedisWriteBehind, writer: Writer) {
  const { redis, pool, config } = pipeline;
  const documents = await documentsOf(pipeline);
  const lost = writer.confirmed.filter((id) => !documents.has(id));
  assert.deepEqual(lost, [], "confirmed by a replica, and lost");
  const { mismatches } = await verify(redis, pool, config, "session");
  await repairTarget(redis, config, "session", mismatches);
  await caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });
  await sink.stop();
  await assertEqual(pipeline);
}
