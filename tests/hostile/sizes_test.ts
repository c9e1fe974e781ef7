/** Sizes: what large documents and many ids cost in memory, by processes of their own. */

import assert from "node:assert/strict";
import { connectRedis, insertDocument, readByIds } from "writebehind";
import { documentsOf, drain, rowsOf, sorted, testPipeline } from "../support/pipeline.ts";
import { environmentOf } from "../support/processes.ts";

const MB = 2 ** 20;
/** MB of memory that a process may take for each MB of the document, by what it does (docs/operating.md, Sizes). */
const MOST: Record<string, number> = { write: 12, sink: 14, verify: 14, read: 10 };

/** Runs one part in a process, and returns by how much its memory grew at most, in MB. */
async function grownBy(part: string, config: Parameters<typeof environmentOf>[0]): Promise<number> {
  const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", new URL("./sizes_process.ts", import.meta.url).pathname, part],
    env: environmentOf(config),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return Number(new TextDecoder().decode(stdout));
}

Deno.test("a document of 20 MB: each part's memory is bounded by its size", {
  ignore: Deno.build.os !== "linux",
}, async (t) => {
  await using pipeline = await testPipeline();
  for (const [part, most] of Object.entries(MOST)) {
    await t.step(part, async () => {
      const grown = await grownBy(part, pipeline.config);
      assert(grown < 20 * most, `${grown} MB for a document of 20 MB`);
    });
  }
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
});

Deno.test("a document of 100,000 keys, and a million ids in one call", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const keys = Object.fromEntries(Array.from({ length: 100_000 }, (_, n) => [`key ${n}`, n]));
  await insertDocument(redis, config, "session", keys, "wide");
  await drain(pipeline);
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
  const ids = Array.from({ length: 1_000_000 }, (_, n) => n === 700_000 ? "wide" : `missing-${n}`);
  // All together take longer than an answer may.
  await using hasty = await connectRedis(pipeline.with({ redis: { command_timeout_ms: 1000 } }));
  const found = await readByIds(hasty, config, "session", ids);
  assert.equal(found.length, ids.length);
  assert.equal(found.filter((document) => document !== null).length, 1);
  assert.deepEqual(found[700_000], keys);
});

Deno.test("documents of 1 kB to 20 MB go one after the other, in order", async () => {
  await using pipeline = await testPipeline({ documents: { max_bytes: 32 * MB } });
  const { redis, config } = pipeline;
  for (const bytes of [1000, 10_000, 100_000, MB, 5 * MB, 20 * MB]) {
    await insertDocument(redis, config, "session", { s: "x".repeat(bytes) }, `d${bytes}`);
  }
  const { events } = await drain(pipeline);
  assert.equal(events, 6);
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(await documentsOf(pipeline)));
});
