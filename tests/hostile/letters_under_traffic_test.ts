/**
 * Replays and discards while writers and a sink go on with the same documents: events that are parked are older than
 * what was written since, and documents of the same ids come and go.
 */

import assert from "node:assert/strict";
import {
  consumePeriodically,
  deleteDocument,
  discardDeadLetters,
  insertDocument,
  replayDeadLetters,
  verify,
} from "writebehind";
import { drain, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

const DOCUMENTS = 20;
const WRITES = 3000;

Deno.test("letters are replayed and discarded under traffic: nothing old comes back", async () => {
  await using pipeline = await testPipeline({ write_behind: { batch_size: 20 } });
  const { redis, pool, config } = pipeline;
  await pool.query("ALTER TABLE sessions ADD CONSTRAINT good CHECK (payload->'bad' IS NULL)");
  const all = { all: true } as const;
  const done = { parked: 0, applied: 0, failed: 0, discarded: 0 };
  let writing = true;
  let n = 0;
  const idOf = () => `d${Math.floor(Math.random() * DOCUMENTS)}`;
  const writers = Array.from({ length: 4 }, async () => {
    while (n < WRITES) {
      const id = idOf();
      if (Math.random() < 0.2) {
        await deleteDocument(redis, config, "session", id).catch((error) => {
          if (error.code !== "missing") throw error;
        });
      } else {
        const document = { n: n++, ...(Math.random() < 0.1 ? { bad: true } : {}) };
        await insertDocument(redis, config, "session", document, id, { overwrite: true });
      }
    }
  });
  {
    await using sink = consumePeriodically(redis, pool, config, "session");
    sink.events.on("parked", () => done.parked++);
    const operators = [
      (async () => {
        while (writing) {
          const { applied, failed } = await replayDeadLetters(redis, pool, config, "session", all);
          done.applied += applied;
          done.failed += failed;
        }
      })(),
      (async () => {
        while (writing) {
          const docId = idOf();
          done.discarded += await discardDeadLetters(pool, config, "session", { docId });
        }
      })(),
    ];
    const operating = Promise.all(operators);
    operating.catch(() => writing = false); // awaited below
    await Promise.all(writers);
    await waitFor(() => !writing || done.applied > 0 && done.failed > 0 && done.discarded > 0, {
      what: `replays and discards: ${JSON.stringify(done)}`,
      deadlineMs: 30_000,
    });
    writing = false;
    await operating;
    // What was discarded is missing until its document is written again.
    for (let index = 0; index < DOCUMENTS; index++) {
      await insertDocument(redis, config, "session", { last: index }, `d${index}`, {
        overwrite: true,
      });
    }
  }
  await drain(pipeline);
  const last = await replayDeadLetters(redis, pool, config, "session", all);
  assert.equal(last.failed, 0);
  const { mismatches, documents } = await verify(redis, pool, config, "session");
  assert.deepEqual(mismatches, []);
  assert.equal(documents, DOCUMENTS);
});
