/** A pipeline whose documents are cached, and a target whose reads are watched. */

import assert from "node:assert/strict";
import {
  type Config,
  deleteDocument,
  insertDocument,
  openTarget,
  readByIds,
  updateDocument,
} from "writebehind";
import type { Rows, Target } from "writebehind/targets";
import type { Pipeline } from "./pipeline.ts";

export const SESSION = { name: "session", table: "sessions", index_name: "idx:sessions" };

/** What is done with cached documents. */
export interface Cached extends Pipeline {
  read(...ids: string[]): Promise<unknown[]>;
  insert(id: string, n: number, options?: Parameters<typeof insertDocument>[5]): Promise<unknown>;
  update(id: string, n: number): Promise<unknown>;
  remove(id: string): Promise<unknown>;
  /** as Redis does where its memory is full */
  evict(...ids: string[]): Promise<void>;
  ttl(id: string): Promise<number>;
}

/** The pipeline with a cache in front of its target. */
export function cached(pipeline: Pipeline): Cached {
  const { redis, config } = pipeline;
  const ttl = (id: string) => redis.ttl(`session:${id}`);
  return {
    ...pipeline,
    read: (...ids) => readByIds(redis, config, "session", ids),
    insert: (id, n, options) => insertDocument(redis, config, "session", { n }, id, options),
    update: (id, n) => updateDocument(redis, config, "session", id, { n }),
    remove: (id) => deleteDocument(redis, config, "session", id),
    ttl,
    async evict(...ids) {
      for (const id of ids) {
        assert(await ttl(id) > 0, `${id} has no time, so Redis would not evict it`);
        await redis.del(`session:${id}`);
      }
    },
  };
}

/**
 * The target, for reading through.
 * @param at is given each look at rows by their ids, and makes it
 */
export async function watchedTarget(
  config: Config,
  at: (look: () => ReturnType<Rows["at"]>) => ReturnType<Rows["at"]>,
): Promise<{ through: Target } & AsyncDisposable> {
  const target = await openTarget(config);
  const rows: Rows = Object.create(target.rows!, {
    at: {
      value: (...args: Parameters<Rows["at"]>) => at(() => target.rows!.at(...args)),
    },
  });
  const through: Target = Object.create(target, { rows: { value: rows } });
  return { through, [Symbol.asyncDispose]: () => target.close() };
}
