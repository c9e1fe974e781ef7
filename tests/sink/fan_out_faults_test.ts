/** Several targets of one stream, and an operator who does everything wrong: no event is lost, and nobody is blocked. */

import assert from "node:assert/strict";
import {
  addTarget,
  configWith,
  deleteDocument,
  insertDocument,
  listTargets,
  openTarget,
  pauseTarget,
  readStatus,
  RedisWriteBehind,
  removeTarget,
  resumeTarget,
  type SqliteTargetConfig,
  updateDocument,
  verify,
} from "writebehind";
import { partitionKeys, partitionOf } from "writebehind/redis/keys.ts";
import { readRegistrations, setState } from "writebehind/redis/registrations.ts";
import { testFolder, waitFor } from "../support/servers.ts";
import { before, drain, equal, once, watched, withTwo, write } from "../support/two_targets.ts";

const STREAM = "stream:session";
const SETTINGS = "stream:settings:session";

Deno.test("fan-out faults", (t) =>
  withTwo(t, async (step) => {
    await step("FLUSHALL: every target goes on by itself", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      for (let round = 1; round < 3; round++) {
        await redis.flushall();
        await write(redis, config, 5 * round, 5);
        await drain(redis, config, a);
      }
      await drain(redis, config, b); // it has missed one
      for (const target of [a, b]) {
        const { mismatches, counts } = await verify(redis, target, config, "session");
        assert.equal(counts.behind, 0);
        assert(mismatches.every(({ difference }) => difference === "extra"));
        assert.equal(mismatches.length, target === a ? 10 : 5);
      }
      assert.equal(await redis.xlen(STREAM), 1);
    });

    await step("two begin at once on new data, and are not taken for strangers", async (two) => {
      const { redis, config, a, b } = two;
      // It has read that there is no identity yet, and then the other is faster.
      await drain(
        redis,
        config,
        before(b, "identities", "note", once(() => drain(redis, config, a))),
      );
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      await equal(redis, config, b, 5);
    });

    await step("writers go on once the target that is behind is removed", async (two) => {
      const { redis, config, a, b } = two;
      await drain(redis, config, a, b);
      await using sink = new RedisWriteBehind(redis, a, config, "session");
      sink.start();
      await write(redis, config, 0, 10);
      await waitFor(() => sink.status.events === 10, { what: "a" });
      await assert.rejects(write(redis, config, 10, 1), /the target b is behind/);
      await removeTarget(redis, config, "session", "b");
      await waitFor(async () => await redis.xlen(STREAM) === 1, { what: "the trim" });
      await write(redis, config, 10, 1);
    }, { streams: { max_events: 10 } });

    await step("a target that was never there loses its place by detach, too", async (two) => {
      const { redis, config, a } = two;
      await write(redis, config, 0, 10);
      await drain(redis, config, a);
      await write(redis, config, 10, 1);
    }, { onFull: "detach", streams: { max_events: 10 } });

    for (
      const value of [
        "nonsense",
        "",
        "active 99999999999999-0 0-0",
        "active x-y 0-0 stop",
        "active 99999999999999-0 0-0 stop",
        "gone 0-0 0-0 stop",
        "active 0-0 nowhere stop",
      ]
    ) {
      await step(`a field of ${JSON.stringify(value)} loses nothing`, async (two) => {
        const { redis, config, a, b } = two;
        await write(redis, config, 0, 5);
        await drain(redis, config, a, b);
        await redis.hset(SETTINGS, "target:b", value);
        await write(redis, config, 5, 5);
        await using sink = new RedisWriteBehind(redis, a, config, "session");
        await sink.drain();
        assert.equal(sink.status.partitions[0]!.trimsFailed, 0);
        assert.equal(await redis.xlen(STREAM), 6);
        await drain(redis, config, b, a);
        await equal(redis, config, b, 10);
        assert.equal(await redis.xlen(STREAM), 1);
      });
    }

    await step("the settings are removed under sinks that have nothing to do", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await using first = new RedisWriteBehind(redis, a, config, "session");
      await using second = new RedisWriteBehind(redis, b, config, "session");
      first.start();
      second.start();
      const keys = partitionKeys(config, "session", 0);
      const told = async () => {
        const offsets = (await readRegistrations(redis, keys)).map(({ offset }) => offset);
        return offsets.length === 2 && offsets.every((offset) => offset !== "0-0");
      };
      await waitFor(told, { what: "both" });
      await redis.del(SETTINGS);
      await waitFor(told, { what: "both again" });
    });

    await step("removed while it is filled, it stays removed", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, 50);
      await drain(redis, config, a);
      const removing = once(async () => {
        await removeTarget(redis, config, "session", "b");
        await updateDocument(redis, config, "session", "d0", { changed: 1 });
        await drain(redis, config, a);
        await write(redis, config, 50, 1);
        await drain(redis, config, a);
      });
      await assert.rejects(
        addTarget(redis, before(b, "batches", "apply", removing), config, "session"),
        /the target b was removed while it was filled \(stream:session\); run this again/,
      );
      const [, known] = await readRegistrations(redis, partitionKeys(config, "session", 0));
      assert.equal(known!.state, "removed");
      await addTarget(redis, b, config, "session");
      await drain(redis, config, b);
      await equal(redis, config, b, 51);
    });

    await step(
      "a second add waits, and takes no place meanwhile",
      async ({ redis, config, a, b }) => {
        await write(redis, config, 0, 50);
        await drain(redis, config, a);
        const keys = partitionKeys(config, "session", 0);
        const offsetOf = async () => (await readRegistrations(redis, keys))[1]!.offset;
        const meanwhile = once(async () => {
          const place = await offsetOf();
          await updateDocument(redis, config, "session", "d0", { changed: 1 });
          await using other = await openTarget(config, "b");
          let asked = 0;
          const stop = new AbortController();
          // The first time it was refused, and waits.
          const asking = before(other, "ownership", "claim", () => {
            if (++asked === 2) stop.abort(new Error("killed"));
            return Promise.resolve();
          });
          const second = addTarget(redis, asking, config, "session", { signal: stop.signal });
          await assert.rejects(second, /killed/);
          assert.equal(await offsetOf(), place);
          await drain(redis, config, a);
        });
        // After the documents were read.
        await addTarget(redis, before(b, "batches", "apply", meanwhile), config, "session");
        await drain(redis, config, b);
        await equal(redis, config, b, 50);
        assert.deepEqual((await addTarget(redis, b, config, "session")).streams, []);
      },
    );

    await step("a second add ends once the first is done, though a sink goes on", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await drain(redis, config, a);
      await using other = await openTarget(config, "b");
      await using third = await openTarget(config, "b");
      const owned = Promise.withResolvers<void>();
      let second: ReturnType<typeof addTarget> | undefined;
      const meanwhile = once(async () => {
        const waits = Promise.withResolvers<void>();
        const claiming = before(other, "ownership", "claim", () => {
          waits.resolve();
          return owned.promise;
        });
        second = addTarget(redis, claiming, config, "session");
        await waits.promise;
      });
      await addTarget(redis, before(b, "ownership", "moveOffset", meanwhile), config, "session");
      await using sink = new RedisWriteBehind(redis, third, config, "session");
      sink.start();
      await waitFor(() => sink.status.partitions[0]!.state === "owner", { what: "the sink" });
      owned.resolve();
      assert.deepEqual((await second!).streams, []);
      await write(redis, config, 5, 1);
      await waitFor(() => sink.status.events === 1, { what: "what was written since" });
      await equal(redis, config, b, 6);
    });

    await step(
      "a stream that goes back before a new target's first event is rewound by it",
      async (two) => {
        const { redis, config, a, b } = two;
        const { stream } = partitionKeys(config, "session", 0);
        await write(redis, config, 0, 1);
        await drain(redis, config, a);
        await write(redis, config, 1, 2);
        const older = await redis.dumpBuffer(stream);
        await updateDocument(redis, config, "session", "d1", { n: -1 });
        await addTarget(redis, b, config, "session");
        // A replica that lacked the update was promoted, and is written to.
        await redis.restore(stream, 0, older, "REPLACE");
        await redis.call("JSON.SET", "session:d1", "$", JSON.stringify({ n: 1 }));
        await write(redis, config, 3, 1);
        const [listed] = (await listTargets(redis, config, "session")).slice(1);
        assert.deepEqual([listed!.name, listed!.goneBack], ["b", true]);
        assert.match(
          (await readStatus(redis, b, config, "session"))[0]!.stuck[0]!,
          /has gone back/,
        );
        await using sink = new RedisWriteBehind(redis, b, config, "session");
        const resent: number[] = [];
        sink.events.on("rewound", ({ documents }) => resent.push(documents));
        await sink.drain();
        assert.deepEqual(resent, [3]);
        await equal(redis, config, b, 4);
        await drain(redis, config, a);
        await equal(redis, config, a, 4);
      },
    );

    await step("the place of a new target is no entry's id", async (two) => {
      const { redis, config, a, b } = two;
      const keys = partitionKeys(config, "session", 0);
      await write(redis, config, 0, 1);
      await drain(redis, config, a);
      // Written with the id that the place would have: the clock of Redis does not reach it.
      const event = ["ts", "1", "doc_id", "d0", "event_type", "delete", "payload", ""];
      const id = `${Date.now() + 60_000}-0`;
      await redis.xadd(keys.stream, id, ...event);
      await redis.del("session:d0");
      await addTarget(redis, b, config, "session");
      const { offset, witness } = (await readRegistrations(redis, keys))[1]!;
      assert.deepEqual([offset, witness], [id.replace(/0$/, "1"), id]);
      await drain(redis, config, a);
      await drain(redis, config, b);
      await equal(redis, config, b, 0);
    });

    await step("a sink that waits takes no partition that is not filled yet", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 40);
      await drain(redis, configWith(config, { targets: [config.targets[0]!] }), a);
      let batches = 0;
      const meanwhile = async () => {
        if (++batches !== 2) return; // the first partition is filled
        await using other = await openTarget(config, "b");
        await using sink = new RedisWriteBehind(redis, other, config, "session");
        sink.start();
        await waitFor(
          () => sink.status.partitions.slice(2).every(({ state }) => /owner|paused/.test(state)),
          { what: "the other partitions" },
        );
      };
      const added = await addTarget(
        redis,
        before(b, "batches", "apply", meanwhile),
        config,
        "session",
      );
      assert.equal(added.streams.length, 4);
      await drain(redis, config, b);
      await equal(redis, config, b, 40);
    }, { streams: { partitions: 4 } });

    await step("rows of one partition do not stand for those of another", async (two) => {
      const { redis, config, a, b } = two;
      const ids = (partition: number) =>
        Array.from({ length: 20 }, (_, n) => `d${n}`).filter((id) =>
          partitionOf(id, 2) === partition
        );
      const insert = async (partition: number) => {
        for (const id of ids(partition)) await insertDocument(redis, config, "session", {}, id);
      };
      const alone = configWith(config, { targets: [config.targets[0]!] });
      await insert(0);
      await drain(redis, alone, a);
      await assert.rejects(drain(redis, config, b), /target add b/);
      await insert(1); // of this one nothing was removed
      await assert.rejects(drain(redis, config, b), /target add b/);
      await assert.rejects(drain(redis, config, b), /target add b/);
      await addTarget(redis, b, config, "session");
      await drain(redis, config, b);
      await equal(redis, config, b, 20);
    }, { streams: { partitions: 2 } });

    await step("a sink of before does not move the place of a filling", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, 5);
      await drain(redis, config, a, b);
      await write(redis, config, 5, 5);
      const keys = partitionKeys(config, "session", 0);
      const [, known] = await readRegistrations(redis, keys);
      const begins = once(async () => void await setState(redis, keys, "b", "filling"));
      await assert.rejects(
        drain(redis, config, before(b, "batches", "apply", begins)),
        /b is being added/,
      );
      const [, now] = await readRegistrations(redis, keys);
      assert.deepEqual([now!.state, now!.offset], ["filling", known!.offset]);
    });

    await step("the stream goes back while a target is filled", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, 50);
      await drain(redis, config, a, b);
      await removeTarget(redis, config, "session", "b");
      await deleteDocument(redis, config, "session", "d3");
      await drain(redis, config, a);
      const older = await redis.dumpBuffer(STREAM);
      let batches = 0;
      const goesBack = async () => {
        if (++batches === 1) await updateDocument(redis, config, "session", "d4", { n: "lost" });
        if (batches === 2) await redis.restore(STREAM, 0, older, "REPLACE");
      };
      await assert.rejects(
        addTarget(redis, before(b, "batches", "apply", goesBack), config, "session"),
        /stream:session has gone back meanwhile; run this again/,
      );
      assert.equal(batches, 2);
      await addTarget(redis, b, config, "session");
      await drain(redis, config, b);
      await equal(redis, config, b, 49);
    });

    await step(
      "a document that is deleted while a target is filled leaves no doubt",
      async (two) => {
        const { redis, config, a, b } = two;
        await drain(redis, config, a);
        // The clock was set back: so the place is an entry of the stream.
        await redis.call("XSETID", STREAM, `${Date.now() + 3_600_000}-0`);
        await write(redis, config, 0, 2);
        await drain(redis, config, a);
        const deletes = once(async () => {
          await deleteDocument(redis, config, "session", "d0");
          await deleteDocument(redis, config, "session", "d1");
        });
        const reading = watched(redis, "callBuffer", deletes);
        assert.equal((await addTarget(reading, b, config, "session")).rows, 0);
        const [status] = await readStatus(redis, b, config, "session");
        assert.deepEqual([status!.stuck, status!.doubts], [[], []]);
        await drain(redis, config, b, a);
        await equal(redis, config, b, 0);
      },
    );

    await step("rows of a later time than Redis are replaced", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, 3);
      await drain(redis, config, a, b);
      const older = await redis.dumpBuffer(STREAM);
      await updateDocument(redis, config, "session", "d1", { n: "lost" });
      await drain(redis, config, b);
      await removeTarget(redis, config, "session", "b");
      await redis.restore(STREAM, 0, older, "REPLACE");
      await redis.call("JSON.SET", "session:d1", "$", JSON.stringify({ n: 1 }));
      await addTarget(redis, b, config, "session");
      await drain(redis, config, b);
      await equal(redis, config, b, 3);
    });

    await step(
      "the one before is removed once another was added, and writers go on",
      async (two) => {
        const { redis, config, a, b } = two;
        await drain(redis, config, a);
        await write(redis, config, 0, 10);
        await addTarget(redis, b, config, "session");
        await removeTarget(redis, config, "session", "a");
        await drain(redis, config, b);
        await write(redis, config, 10, 5);
        await drain(redis, config, b);
        await equal(redis, config, b, 15);
        const [status] = await readStatus(redis, b, config, "session");
        assert.deepEqual(status!.doubts, []);
      },
      { streams: { max_events: 10 } },
    );

    await step("two names for one database are told from a target that waits", async (two) => {
      const { redis, config, a } = two;
      const first = config.targets[0]! as SqliteTargetConfig;
      const path = testFolder("fan");
      await Deno.symlink(first.path, path);
      const twice = configWith(config, { targets: [first, { ...first, name: "b", path }] });
      await write(redis, config, 0, 5);
      await using sink = new RedisWriteBehind(redis, a, twice, "session");
      sink.start();
      await waitFor(() => sink.status.events === 5, { what: "a" });
      await using b = await openTarget(twice, "b");
      await using waiting = new RedisWriteBehind(redis, b, twice, "session");
      waiting.start();
      const same =
        "the targets a and b are the same database: take one of them from the configuration";
      await waitFor(() => waiting.lastError?.message.includes(same), { what: "the failure" });
      const [status] = await readStatus(redis, b, twice, "session");
      assert.deepEqual(status!.stuck, [same]);
      assert.equal(sink.lastError, null);
    });

    await step("a target that was renamed is told to hold up the stream", async (two) => {
      const { redis, config, a, b } = two;
      await drain(redis, config, a, b);
      const [first] = config.targets;
      const renamed = configWith(config, { targets: [{ ...first!, name: "c" }] });
      await using c = await openTarget(renamed, "c");
      await removeTarget(redis, config, "session", "b");
      await write(redis, config, 0, 5);
      await drain(redis, renamed, c);
      const { stuck, warnings } = (await readStatus(redis, c, renamed, "session"))[0]!;
      assert.deepEqual(stuck, []);
      assert.match(warnings.join("; "), /kept for the target a, which is not in .*target remove a/);
      await removeTarget(redis, renamed, "session", "a");
      assert.deepEqual((await readStatus(redis, c, renamed, "session"))[0]!.warnings, []);
      await drain(redis, renamed, c);
      assert.equal(await redis.xlen(STREAM), 1);
    });

    await step("one that is paused waits for its operator, not for a sink", async (two) => {
      const { redis, config, a, b } = two;
      await drain(redis, config, a);
      await pauseTarget(redis, config, "session", "b"); // nobody has ever registered it
      await write(redis, config, 0, 3);
      await waitFor(async () => {
        const [status] = await readStatus(redis, b, config, "session");
        assert.deepEqual(status!.stuck, []);
        return status!.lagSeconds! > 2.2; // a lease is over
      }, { what: "a lease's time" });
      const [status] = await readStatus(redis, b, config, "session");
      assert.match(status!.warnings.join(), /the target is paused/);
      await resumeTarget(redis, config, "session", "b");
      await drain(redis, config, a, b);
      await equal(redis, config, b, 3);
    });

    await step("the list says who stands before a rewind", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, 3);
      await drain(redis, config, a, b);
      const older = await redis.dumpBuffer(STREAM);
      await write(redis, config, 3, 1);
      await drain(redis, config, a, b);
      await redis.restore(STREAM, 0, older, "REPLACE");
      await drain(redis, config, a);
      const list = await listTargets(redis, config, "session");
      assert.deepEqual(list.map(({ name, goneBack, holdsUp }) => [name, goneBack, holdsUp]), [
        ["a", false, false],
        ["b", true, true],
      ]);
      await drain(redis, config, b, a, b, a);
      const again = await listTargets(redis, config, "session");
      assert(again.every(({ goneBack, holdsUp }) => !goneBack && !holdsUp));
    });

    await step("on_full is changed while the target is away", async ({ redis, config, a, b }) => {
      await drain(redis, config, b);
      await write(redis, config, 0, 10);
      await drain(redis, config, a);
      const targets = config.targets.map((target) => ({ ...target, on_full: "detach" as const }));
      await drain(redis, configWith(config, { targets }), a);
      await write(redis, config, 10, 1);
    }, { streams: { max_events: 10 } });

    await step("removing one whose stream is gone, or that never was there", async (two) => {
      const { redis, config, a, b } = two;
      await drain(redis, config, a, b);
      await redis.del(STREAM);
      await removeTarget(redis, config, "session", "b");
      await redis.del(SETTINGS);
      await removeTarget(redis, config, "session", "b");
      const states = (await listTargets(redis, config, "session")).map(({ state }) => state);
      assert.deepEqual(states, [null, "removed"]);
    });
  }));
