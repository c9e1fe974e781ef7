/** The whole way into a target, as cases that each passes: sinks that are killed, and what they leave. */

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import {
  type Config,
  type DeepPartial,
  deleteDocument,
  insertDocument,
  readStatus,
  updateDocument,
  verify,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { Author } from "../../faults/author.ts";
import { withSeed } from "../../faults/seed.ts";
import { waitFor } from "../../support/servers.ts";
import { drain, type TargetPipeline } from "../pipelines.ts";

/** The rows are the documents, and every event was counted once. */
async function assertExact(pipeline: TargetPipeline, events: number, rows?: number) {
  const { redis, target, config } = pipeline;
  const report = await verify(redis, target, config, "session");
  assert.deepEqual(report.counts, { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 });
  assert.equal(report.equal, report.rows);
  if (rows !== undefined) assert.equal(report.rows, rows);
  const { events: applied } = await target.offsets.standing(partitionKeys(config, "session", 0));
  assert.equal(applied, events, "each event is applied once");
}

/** Places in the life of a batch, and what makes a sink come there. */
const PLACES = [
  "claiming",
  "claimed",
  "begun",
  "coalesced",
  "applying",
  "sent apply session",
  "sent apply session:3",
  "applied",
  "trimming",
  "trimmed",
];

/**
 * Declares the cases for a kind of target.
 * @param make starts a pipeline into an empty one, whose target is called `local`
 * @param ignore whether they are skipped, since its server is not installed
 */
export function pipelines(
  kind: string,
  make: (overrides?: DeepPartial<Config>) => Promise<TargetPipeline>,
  ignore = false,
): void {
  Deno.test({ name: `${kind}: a sink drains a stream into the file`, ignore }, async () => {
    const batch_size = 1000;
    await using pipeline = await make({ write_behind: { batch_size } });
    const { redis, config } = pipeline;
    for (let n = 0; n < 3000; n++) {
      const id = `d${n % 1000}`;
      if (n < 1000) await insertDocument(redis, config, "session", { n }, id);
      else if (n % 10 === 0) await deleteDocument(redis, config, "session", id).catch(() => {});
      else await updateDocument(redis, config, "session", id, { n }).catch(() => {});
    }
    const { events, rows, parked } = await drain(pipeline);
    assert(rows <= 1000 * Math.ceil(events / batch_size) && parked === 0);
    await assertExact(pipeline, events, 900);
    const [status] = await readStatus(redis, pipeline.target, config, "session");
    assert.deepEqual(
      [status!.lagEvents, status!.owner, status!.parked, status!.stuck],
      [0, null, 0, []],
    );
  });

  Deno.test({
    name: `${kind}: sinks that are killed under traffic lose nothing, and apply nothing twice`,
    ignore,
  }, () =>
    withSeed(async (random) => {
      await using pipeline = await make({ write_behind: { batch_size: 20 } });
      const author = new Author(pipeline.redis, pipeline.config, {
        random,
        documents: 60,
        paceMs: 2,
      });
      for (let run = 0; run < 8; run++) {
        const writing = author.start();
        try {
          await using sink = pipeline.start(["sink"]);
          await waitFor(() => sink.output().includes("carrying session events on to local"), {
            what: "the sink to begin",
            deadlineMs: 20_000,
          });
          await delay(600 * random());
          sink.kill("SIGKILL");
          await sink.status;
        } finally {
          await writing.stop();
        }
      }
      await drain(pipeline);
      await assertExact(pipeline, author.events, author.documents().size);
    }));

  Deno.test({
    name: `${kind}: killed at any place in the life of a batch, a sink leaves it whole or undone`,
    ignore,
  }, async (t) => {
    await using pipeline = await make({ write_behind: { batch_size: 7 } });
    const { redis, config } = pipeline;
    let events = 0;
    for (const place of PLACES) {
      await t.step(place, async () => {
        for (let n = 0; n < 40; n++, events++) {
          await insertDocument(redis, config, "session", { events }, `d${n}`, { overwrite: true });
        }
        {
          await using sink = pipeline.start(["sink"], { WRITEBEHIND_FAILPOINT: place });
          await waitFor(() => sink.output().includes(`failpoint ${place.split(":")[0]}`), {
            what: `the failpoint ${place}`,
            deadlineMs: 20_000,
          });
          sink.kill("SIGKILL");
          await sink.status;
        }
        await drain(pipeline);
        await assertExact(pipeline, events, 40);
      });
    }
  });

  Deno.test({
    name: `${kind}: a second sink stands by, and takes over from one that is killed`,
    ignore,
  }, async () => {
    await using pipeline = await make();
    const { redis, target, config } = pipeline;
    const keys = partitionKeys(config, "session", 0);
    const owner = async () => {
      const { owner, live } = await target.offsets.standing(keys);
      return live ? owner : null;
    };
    await using first = pipeline.start(["sink"]);
    const before = await waitFor(owner, { what: "the first owner", deadlineMs: 20_000 });
    await using second = pipeline.start(["sink"]);
    await waitFor(() => second.output().includes("is owned by another sink"), {
      what: "the second to stand by",
      deadlineMs: 20_000,
    });
    await insertDocument(redis, config, "session", { n: 1 }, "a");
    await waitFor(async () => (await target.rows!.at(keys, ["a"])).rows[0], { what: "the row" });
    first.kill("SIGKILL");
    await first.status;
    await waitFor(async () => {
      const now = await owner();
      return now !== null && now !== before;
    }, { what: "the second to take over" });
    await insertDocument(redis, config, "session", { n: 2 }, "b");
    await waitFor(async () => (await target.rows!.at(keys, ["b"])).rows[0], { what: "the row" });
    second.kill("SIGTERM");
    assert.equal((await second.status).code, 0, second.output());
    assert.equal(await owner(), null, "given back");
    await assertExact(pipeline, 2, 2);
  });
}
