/** The commands of an operator, with several targets, in each of the states that those may be in. */

import assert from "node:assert/strict";
import {
  addTarget,
  adopt,
  caughtUp,
  type Config,
  configWith,
  ConnectionError,
  consumePeriodically,
  deleteDocument,
  listTargets,
  mendStreams,
  openTarget,
  pauseTarget,
  readStatus,
  rebuild,
  RedisWriteBehind,
  removeTarget,
  repairTarget,
  replayDeadLetters,
  resumeTarget,
  type SqliteTargetConfig,
  type Target,
  updateDocument,
  verify,
} from "writebehind";
import { DatabaseSync } from "node:sqlite";
import { delay } from "writebehind/core/delay.ts";
import { Watch } from "writebehind/dev/stage/watch.ts";
import { allPartitions, partitionKeys } from "writebehind/redis/keys.ts";
import { readRegistrations } from "writebehind/redis/registrations.ts";
import { waitFor } from "../support/servers.ts";
import {
  before,
  drain,
  equal,
  once,
  type Two,
  watched,
  withTwo,
  write,
} from "../support/two_targets.ts";

const STREAM = "stream:session";
const SETTINGS = "stream:settings:session";
/** An id that no version can hold. */
const FAR = "9000000000000-0";

const GIVEN_UP: Record<string, (two: Two) => Promise<unknown>> = {
  "was never added": () => Promise.resolve(),
  "was removed": ({ redis, config }) => removeTarget(redis, config, "session", "b"),
  "was emptied": async ({ redis, config, b }) => {
    await addTarget(redis, b, config, "session");
    await updateDocument(redis, config, "session", "d0", { n: -1 });
    await drain(redis, config, b);
    inFile(config, "DELETE FROM sessions");
  },
};

Deno.test("targets in each state", (t) =>
  withTwo(t, async (step) => {
    for (const [state, giveUp] of Object.entries(GIVEN_UP)) {
      await step(`mend, where a target ${state}`, async (two) => {
        const { redis, config, a, b } = two;
        const alone = configWith(config, { targets: [config.targets[0]!] });
        await write(redis, config, 0, 5);
        await drain(redis, alone, a);
        await giveUp(two);
        await redis.xadd(STREAM, FAR, "doc_id", "d0", "event_type", "update", "x", "y");
        assert.equal((await mendStreams(redis, [a, b], config, "session")).entries.length, 1);
        await write(redis, config, 5, 1);
        await drain(redis, alone, a);
        await equal(redis, config, a, 6);
      });
    }

    await step("a list says of one that is paused what the target itself says", async (two) => {
      const { redis, config, b } = two;
      await using sink = consumePeriodically(redis, b, config, "session");
      const state = () => sink.status.partitions[0]!.state;
      for (let round = 0; round < 3; round++) {
        await write(redis, config, 10 * round, 5);
        await caughtUp(redis, b, config, "session");
        await pauseTarget(redis, config, "session", "b");
        // The sink sees it while it trims, behind some of them.
        await delay(150);
        await write(redis, config, 10 * round + 5, 5);
        await waitFor(() => state() === "paused", { what: "the pause", deadlineMs: 30_000 });
        const [listed] = (await listTargets(redis, config, "session")).slice(-1);
        const [status] = await readStatus(redis, b, config, "session");
        const { name, offset, lagEvents } = listed!;
        assert.deepEqual([name, offset, lagEvents], ["b", status!.offset, status!.lagEvents]);
        await resumeTarget(redis, config, "session", "b");
      }
    });

    await step("mend, while one is paused with an offset that no version can hold", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await redis.xadd(STREAM, FAR, "doc_id", "d0", "event_type", "update", "x", "y");
      await drain(redis, config, a, b);
      await pauseTarget(redis, config, "session", "b");
      await mendStreams(redis, [a, b], config, "session");
      await write(redis, config, 5, 5);
      await drain(redis, config, a);
      await resumeTarget(redis, config, "session", "b");
      await drain(redis, config, b, a);
      await equal(redis, config, a, 10);
      await equal(redis, config, b, 10);
      assert.equal(await redis.xlen(STREAM), 1);
    });

    await step("mend without a target that is away: it goes on when it is back", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await redis.xadd(STREAM, FAR, "doc_id", "d0", "event_type", "update", "x", "y");
      await drain(redis, config, a, b);
      await mendStreams(redis, [a], config, "session");
      await write(redis, config, 5, 5);
      await drain(redis, config, a, b, a, b, a);
      await equal(redis, config, a, 10);
      await equal(redis, config, b, 10);
      assert.equal(await redis.xlen(STREAM), 1);
    });

    await step("rebuild from the one that is not the first", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      await write(redis, config, 5, 5);
      await drain(redis, config, b);
      await redis.flushall();
      assert.equal((await rebuild(redis, b, config, "session")).restored, 10);
      await updateDocument(redis, config, "session", "d0", { again: 1 });
      await drain(redis, config, a, b);
      await equal(redis, config, b, 10);
      const { mismatches } = await verify(redis, a, config, "session");
      assert.deepEqual(mismatches.map(({ difference }) => difference), Array(5).fill("missing"));
      await repairTarget(redis, config, "session", mismatches);
      await drain(redis, config, a, b);
      await equal(redis, config, a, 10);
    });

    await step("adopt one, and the others stay", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      await redis.hset(SETTINGS, "identity", "0123456789abcdef");
      await assert.rejects(drain(redis, config, a), /other data/);
      await assert.rejects(drain(redis, config, b), /other data/);
      assert.equal((await adopt(redis, b, config, "session")).partitions.length, 1);
      await drain(redis, config, b);
      await assert.rejects(drain(redis, config, a), /other data/);
      await adopt(redis, a, config, "session");
      await write(redis, config, 5, 5);
      await drain(redis, config, a, b, a);
      await equal(redis, config, a, 10);
      await equal(redis, config, b, 10);
    });

    await step("adopted twice at once: one that goes on is not moved back", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      await redis.hset(SETTINGS, "identity", "0123456789abcdef");
      await write(redis, config, 5, 5);
      const another = once(async () => {
        await adopt(redis, b, config, "session");
        await drain(redis, config, b);
      });
      await assert.rejects(
        adopt(redis, watched(b, "migrate", another), config, "session"),
        /the offset of stream:session has moved meanwhile/,
      );
      await adopt(redis, a, config, "session");
      await drain(redis, config, a, b);
      await equal(redis, config, b, 10);
      const [status] = await readStatus(redis, b, config, "session");
      assert.equal(status!.wentBack, 0);
      assert.deepEqual((await adopt(redis, b, config, "session")).partitions, []);
    });

    for (const [verb, change] of [["paused", pauseTarget], ["resumed", resumeTarget]] as const) {
      await step(
        `removed while it is ${verb}, it stays removed`,
        async ({ redis, config, a, b }) => {
          await write(redis, config, 0, 5);
          await drain(redis, config, a, b);
          const removing = once(async () => void await removeTarget(redis, config, "session", "b"));
          await assert.rejects(
            change(watched(redis, "evalsha", removing), config, "session", "b"),
            /the target b is removed \(stream:session\): run deno task target add b/,
          );
          const [, known] = await readRegistrations(redis, partitionKeys(config, "session", 0));
          assert.equal(known!.state, "removed");
        },
      );
    }

    await step("parked in one only, and replayed", async (two) => {
      const { redis, config, a, b } = two;
      await drain(redis, config, a, b);
      const { path } = config.targets[1] as { path: string };
      const sql = (text: string) => {
        using database = new DatabaseSync(path);
        database.exec(text);
      };
      sql(
        "CREATE TRIGGER t BEFORE INSERT ON sessions WHEN NEW.id = 'd3' BEGIN SELECT RAISE(ABORT, 'no d3'); END",
      );
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      await updateDocument(redis, config, "session", "d3", { again: 1 });
      await drain(redis, config, b, a);
      assert.equal(await redis.xlen(STREAM), 1);
      await equal(redis, config, a, 5);
      const parked = async (target: Target) =>
        (await readStatus(redis, target, config, "session"))[0]!.parked;
      assert.deepEqual([await parked(a), await parked(b)], [0, 2]);
      inFile(config, "DROP TRIGGER t");
      assert.equal(
        (await replayDeadLetters(redis, b, config, "session", { all: true })).applied,
        1,
      );
      await equal(redis, config, b, 5);
      assert.equal(await parked(b), 0);
    });

    await step("a full Redis: pause, remove, add", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 50);
      await drain(redis, config, a);
      await redis.config("SET", "maxmemory", "1");
      try {
        await pauseTarget(redis, config, "session", "b");
        await resumeTarget(redis, config, "session", "b");
        await removeTarget(redis, config, "session", "b");
        await drain(redis, config, a);
        assert.equal(await redis.xlen(STREAM), 1);
        await addTarget(redis, b, config, "session");
      } finally {
        await redis.config("SET", "maxmemory", "0");
      }
      await drain(redis, config, b);
      await equal(redis, config, b, 50);
    });

    await step("all of Redis goes back while one is away", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 10);
      await drain(redis, config, a, b);
      const keys = [STREAM, SETTINGS, ...Array.from({ length: 10 }, (_, n) => `session:d${n}`)];
      const older = await Promise.all(keys.map((key) => redis.dumpBuffer(key)));
      for (let n = 0; n < 5; n++) {
        await updateDocument(redis, config, "session", `d${n}`, { lost: n });
      }
      await drain(redis, config, b); // it is ahead now, and away
      for (const [n, key] of keys.entries()) await redis.restore(key, 0, older[n]!, "REPLACE");
      for (let n = 5; n < 8; n++) {
        await updateDocument(redis, config, "session", `d${n}`, { later: n });
      }
      await drain(redis, config, a);
      await deleteDocument(redis, config, "session", "d9");
      await drain(redis, config, a);
      const [, known] = await listTargets(redis, config, "session");
      assert.deepEqual([known!.lagEvents, known!.holdsUp], [4, true]);
      await drain(redis, config, b, a, b);
      assert.equal(await redis.xlen(STREAM), 1);
      await equal(redis, config, a, 9);
      // What it had, and Redis has lost.
      const { mismatches } = await verify(redis, b, config, "session");
      assert.deepEqual(mismatches.map(({ id, difference }) => `${id} ${difference}`).sort(), [
        "d0 different",
        "d1 different",
        "d2 different",
        "d3 different",
        "d4 different",
      ]);
    });

    await step(
      "an older backup of one is restored: what was trimmed since is in doubt",
      async (two) => {
        const { redis, config, a, b } = two;
        await write(redis, config, 0, 10);
        await drain(redis, config, a, b);
        const { path } = config.targets[1] as SqliteTargetConfig;
        inFile(config, `VACUUM INTO '${path}.older'`);
        await write(redis, config, 10, 10);
        await drain(redis, config, b);
        await b.close();
        for (const suffix of ["-wal", "-shm"]) await Deno.remove(path + suffix).catch(() => {}); // gone with it
        await Deno.rename(`${path}.older`, path);
        await drain(redis, config, a); // it may be trimmed to where the target had told to be
        await using again = await openTarget(config, "b");
        await drain(redis, config, again, a);
        const [status] = await readStatus(redis, again, config, "session");
        const { mismatches } = await verify(redis, again, config, "session");
        assert(status!.doubts.length > 0 || mismatches.length === 0);
        assert.equal(await redis.xlen(STREAM), 1);
      },
    );

    await step(
      "one is removed under its sink, and added again: nothing has gone back",
      async (two) => {
        const { redis, config, a, b } = two;
        await write(redis, config, 0, 5);
        await drain(redis, config, a, b);
        let batches = 0;
        const late = before(b, "batches", "apply", async () => {
          if (++batches > 2) return;
          if (batches === 2) {
            // What it was to trim, it has by now.
            await delay(500);
            throw new ConnectionError("lost");
          }
          // The other one goes on, and its sink trims, before a batch of this one is applied.
          await removeTarget(redis, config, "session", "b");
          await write(redis, config, 6, 1);
          await drain(redis, config, a);
        });
        await using sink = consumePeriodically(redis, late, config, "session");
        await write(redis, config, 5, 1);
        await waitFor(() => /was removed/.test(sink.lastError?.message ?? ""), {
          what: "the sink to notice",
          deadlineMs: 30_000,
        });
        const [status] = await readStatus(redis, b, config, "session");
        assert.doesNotMatch(status!.stuck.join(), /gone back/);
        assert.match(status!.stuck.join(), /the target is removed: run deno task target add b/);
        await addTarget(redis, b, config, "session");
        await write(redis, config, 7, 1);
        await caughtUp(redis, b, config, "session");
        const { wentBack } = await b.offsets.standing(partitionKeys(config, "session", 0));
        assert.equal(wentBack, 0);
        await equal(redis, config, b, 8);
      },
      // Its sink pauses so long that it does not see who adds it.
      { write_behind: { retry_base_ms: 1000, retry_max_ms: 1000 } },
    );

    await step(
      "one begins behind the other: rows that it has just got are not in doubt",
      async (two) => {
        const { redis, config, a, b } = two;
        await write(redis, config, 0, 20);
        await drain(redis, config, b); // which notes whose data these are
        const partitions = allPartitions(config, "session");
        const applied = async () =>
          (await Promise.all(partitions.map((keys) => a.offsets.offset(keys)))).some((id) =>
            id !== "0-0"
          );
        let claims = 0;
        const late = before(a, "ownership", "claim", async () => {
          if (++claims === 2) await waitFor(applied, { what: "a partition", deadlineMs: 30_000 });
        });
        await drain(redis, config, late);
        const status = await readStatus(redis, a, config, "session");
        assert.deepEqual(status.map(({ doubts }) => doubts), [[], []]);
      },
      { streams: { partitions: 2 } },
    );

    await step("the stage says of its target what it holds, not what it has told", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      // Its sink was killed between a commit and the trim that tells of it.
      await redis.hset(SETTINGS, "target:a", "active 1-1 0-0 stop");
      const { promise: sampled, resolve } = Promise.withResolvers<unknown>();
      const options = { redis, target: a, config, entity: "session" };
      await using watch = new Watch({ ...options, onSample: resolve });
      watch.start();
      await sampled;
      assert.deepEqual(watch.targets.map(({ name, lag }) => [name, lag]), [["a", 0], ["b", 0]]);
    });

    await step("a sink that ends tells what it has applied last", async ({ redis, config, a }) => {
      const alone = configWith(config, { targets: [config.targets[0]!] });
      for (let n = 0; n < 5; n++) {
        await using sink = consumePeriodically(redis, a, alone, "session");
        await write(redis, alone, 2 * n, 1);
        await waitFor(() => sink.status.events === 1, { what: "the event", deadlineMs: 30_000 });
        await write(redis, alone, 2 * n + 1, 1); // so soon that it is not trimmed by itself
        await waitFor(() => sink.status.events === 2, { what: "the other", deadlineMs: 30_000 });
        await sink.stop();
        const [listed] = await listTargets(redis, alone, "session");
        const [status] = await readStatus(redis, a, alone, "session");
        assert.deepEqual([listed!.lagEvents, listed!.holdsUp, listed!.offset], [
          0,
          false,
          status!.offset,
        ]);
      }
    });

    await step(
      "the right to trim is taken away, and given back",
      async ({ redis, config, a, b }) => {
        await write(redis, config, 0, 10);
        await drain(redis, config, b);
        await redis.acl("SETUSER", "default", "-xtrim");
        try {
          await using sink = new RedisWriteBehind(redis, a, config, "session");
          const seen: string[] = [];
          sink.events.on("trimFailed", ({ error }) => seen.push(error.message));
          await sink.drain();
          assert.match(seen.join(), /xtrim/i);
          assert.equal(sink.status.events, 10);
        } finally {
          await redis.acl("SETUSER", "default", "+xtrim");
        }
        await drain(redis, config, a, b, a);
        assert.equal(await redis.xlen(STREAM), 1);
      },
    );
  }));

/** Runs a statement in the file of the second target. */
function inFile({ targets }: Config, statement: string): void {
  using database = new DatabaseSync((targets[1] as SqliteTargetConfig).path);
  database.exec(statement);
}
