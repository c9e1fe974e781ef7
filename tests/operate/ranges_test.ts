/** Two targets, each with a range of the partitions. */

import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import {
  addTarget,
  adopt,
  caughtUp,
  type Config,
  configWith,
  connectRedis,
  deleteDocument,
  listDeadLetters,
  listTargets,
  mendStreams,
  openTarget,
  readByIds,
  readFigures,
  readStatus,
  rebuild,
  type RedisConnection,
  removeTarget,
  repairRedis,
  repartition,
  replayDeadLetters,
  Sinks,
  type SqliteTargetConfig,
  type Target,
  updateDocument,
  verify,
} from "writebehind";
import { allPartitions, documentKey, partitionOf } from "writebehind/redis/keys.ts";
import { readRegistrations } from "writebehind/redis/registrations.ts";
import { configFile, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";
import { drain, type Two, withTwo, write } from "../support/two_targets.ts";

const DOCUMENTS = 40;
const IDS = Array.from({ length: DOCUMENTS }, (_, index) => `d${index}`);
const IN_A = IDS.filter((id) => partitionOf(id, 4) < 2).sort();
const IN_B = IDS.filter((id) => partitionOf(id, 4) >= 2).sort();
/** An id that no version can hold. */
const FAR = "9000000000000-0";

const HALVES = {
  ranges: ["0-1", "2-3"],
  streams: { partitions: 4 },
  search_index: { create_index: false },
} as const;

function inFile<Row>(config: Config, index: 0 | 1, sql: string): Row[] {
  using database = new DatabaseSync((config.targets[index] as SqliteTargetConfig).path);
  return database.prepare(sql).all() as Row[];
}

const idsIn = (config: Config, index: 0 | 1) =>
  inFile<{ id: string }>(config, index, "SELECT id FROM sessions ORDER BY id").map(({ id }) => id);

const lengths = (redis: RedisConnection, config: Config) =>
  Promise.all(allPartitions(config, "session").map(({ stream }) => redis.xlen(stream)));

async function equal({ redis, config }: Two, target: Target, ids: string[]) {
  const { documents, rows, equal, counts } = await verify(redis, target, config, "session");
  assert.deepEqual([documents, rows, equal, counts.mismatches, counts.behind], [
    ...[ids.length, ids.length, ids.length],
    ...[0, 0],
  ]);
}

Deno.test("targets with a range of the partitions each", (t) =>
  withTwo(t, async (step) => {
    await step("each has the documents of its own, and what both need is trimmed", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, DOCUMENTS);
      const written = await lengths(redis, config);
      await using sinks = new Sinks(redis, config);
      sinks.start();
      for (const target of [a, b]) {
        await sinks.opened(target.describe().name);
        await caughtUp(redis, target, config, "session");
      }
      assert.deepEqual([idsIn(config, 0), idsIn(config, 1)], [IN_A, IN_B]);
      // The last entry of each stays.
      await waitFor(async () => (await lengths(redis, config)).every((length) => length === 1), {
        what: "the trims",
        deadlineMs: 30_000,
      });
      assert.deepEqual(
        sinks.carried.map(({ name, sink }) => [
          name,
          sink.status.partitions.map((one) => one.partition),
        ]).sort(),
        [["a", [0, 1]], ["b", [2, 3]]],
      );
      await equal(two, a, IN_A);
      await equal(two, b, IN_B);
      for (const keys of allPartitions(config, "session")) {
        const known = await readRegistrations(redis, keys);
        assert.deepEqual(known.map(({ name }) => name), [keys.partition < 2 ? "a" : "b"]);
      }
      assert.deepEqual((await adopt(redis, a, config, "session")).partitions, []);
      const figures = await readFigures(redis, b, config, "session");
      assert.deepEqual(figures.partitions.map(({ partition }) => partition), [2, 3]);
      assert.equal(figures.applied, written[2]! + written[3]!);
      const status = await readStatus(redis, b, config, "session");
      assert.deepEqual(
        status.map((one) => [one.stream, one.target, one.stuck, one.warnings]),
        [2, 3].map((partition) => [`stream:{session-${partition}}`, "b", [], []]),
      );
      const away = await readStatus(redis, null, config, "session", { name: "b" });
      assert.deepEqual(away.map(({ stream }) => stream), status.map(({ stream }) => stream));
      assert.deepEqual(
        (await listTargets(redis, config, "session")).map(({ name }) => name),
        ["a", "a", "b", "b"],
      );
    }, HALVES);

    await step("one that is behind holds up its own; rows of others are extra", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, DOCUMENTS);
      const before = await lengths(redis, config);
      await drain(redis, config, a);
      assert.deepEqual(await lengths(redis, config), [1, 1, before[2], before[3]]);
      await drain(redis, config, b);
      assert.deepEqual(await lengths(redis, config), [1, 1, 1, 1]);
      const [stray, gone] = IN_B;
      for (const id of [stray, gone]) {
        inFile(config, 0, `INSERT INTO sessions (id, payload) VALUES ('${id}', '{"n": -1}')`);
      }
      await deleteDocument(redis, config, "session", gone!);
      await drain(redis, config, b);
      const { mismatches, counts } = await verify(redis, a, config, "session");
      assert.deepEqual(
        mismatches.map(({ id, difference }) => [id, difference]).sort(),
        [[stray, "extra"], [gone, "extra"]].sort(),
      );
      assert.equal(counts.behind, 0);
      const { mended, refused } = await repairRedis(redis, a, config, "session", mismatches);
      assert.equal(mended, 0);
      assert.match(refused[0]!.reason, /^its partition is not in the range of a$/);
      assert.equal((await readByIds(redis, config, "session", [gone!]))[0], null);
      await equal(two, b, IN_B.filter((id) => id !== gone));
    }, HALVES);

    await step("each brings its own documents back", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, DOCUMENTS);
      await drain(redis, config, a, b);
      const lose = () => redis.del(...IDS.map((id) => documentKey(config, "session", id)));
      await lose();
      const read = (through: Target | Target[], ids: string[]) =>
        readByIds(redis, config, "session", ids, { through });
      const [one] = IN_B;
      assert.deepEqual(await read(b, [one!]), [{ n: Number(one!.slice(1)) }]);
      await lose();
      await assert.rejects(
        read(a, [one!]),
        /^ConfigError: Cannot read "d\d+" through to a: its partition, [23], is another target's/,
      );
      assert.deepEqual(await read([a, b], IDS), IDS.map((_, n) => ({ n })));
      await lose();
      inFile(config, 0, `INSERT INTO sessions (id, payload) VALUES ('${one}', '{"n": -1}')`);
      const { restored, kept } = await rebuild(redis, a, config, "session");
      assert.deepEqual([restored, kept], [IN_A.length, 0]);
      assert.deepEqual(
        (await readByIds(redis, config, "session", IDS)).filter((text) => text).length,
        IN_A.length,
      );
      assert.equal((await rebuild(redis, b, config, "session")).restored, IN_B.length);
    }, HALVES);

    await step("one is removed from its partitions, and added to them", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, DOCUMENTS);
      await drain(redis, config, a, b);
      const gone = await removeTarget(redis, config, "session", "b");
      const streams = [2, 3].map((partition) => `stream:{session-${partition}}`);
      assert.deepEqual(gone.map(({ stream }) => stream), streams);
      await updateDocument(redis, config, "session", IN_B[0]!, { again: 1 });
      const added = await addTarget(redis, b, config, "session");
      assert.deepEqual([added.streams, added.rows], [streams, IN_B.length]);
      await drain(redis, config, a, b);
      await equal(two, a, IN_A);
      await equal(two, b, IN_B);
    }, HALVES);

    await step("what is parked is replayed where it is, and a stream mended", async (two) => {
      const { redis, config, a, b } = two;
      const stream = "stream:{session-3}";
      await write(redis, config, 0, DOCUMENTS);
      await redis.xadd(stream, "*", "doc_id", IN_B[0]!, "event_type", "none");
      await drain(redis, config, a, b);
      const parked = async (target: Target) => {
        let count = 0;
        for await (const _ of listDeadLetters(target, config, "session")) count++;
        return count;
      };
      assert.deepEqual([await parked(a), await parked(b)], [0, 1]);
      const report = await replayDeadLetters(redis, b, config, "session", { all: true });
      assert.equal(report.failed, 1);
      // What is left of a partition that it has no more is listed, and no row is written of it.
      const [first, second] = config.targets as SqliteTargetConfig[];
      const third = { ...second!, name: "c", path: `${second!.path}.c`, partitions: "3" };
      const less = configWith(config, {
        targets: [first!, { ...second!, partitions: "2" }, third],
      });
      const none = await replayDeadLetters(redis, b, less, "session", { all: true });
      assert.deepEqual([none.failed, await parked(b)], [0, 1]);
      await redis.xadd(stream, FAR, "doc_id", IN_B[0]!, "event_type", "update");
      const { streams } = await mendStreams(redis, [a, b], config, "session");
      assert.deepEqual(streams, [stream]);
      await drain(redis, config, a, b);
      await equal(two, a, IN_A);
    }, HALVES);

    await step("another range is told, and the number of partitions stays", async (two) => {
      const { redis, config, a, b } = two;
      await write(redis, config, 0, DOCUMENTS);
      await drain(redis, config, a, b);
      const [first, second] = config.targets;
      const moved = configWith(config, {
        targets: [{ ...first!, partitions: "0-2" }, { ...second!, partitions: "3" }],
      });
      const status = await readStatus(redis, a, moved, "session");
      assert.match(
        status[2]!.warnings.join(),
        /kept for the target b, whose range does not have this partition: give it back, or run deno task target remove b/,
      );
      await assert.rejects(drain(redis, moved, a), /target add a/); // it has nothing of partition 2
      await assert.rejects(
        repartition(redis, [a, b], config, "session", { to: 8 }),
        /^ConfigError: Cannot repartition session: the ranges of targets/,
      );
    }, HALVES);

    await step("two with ranges take the place of one with all", async (two) => {
      const { redis, config, a, b } = two;
      const [first] = config.targets as SqliteTargetConfig[];
      const old = {
        ...{ name: "old", kind: "sqlite" as const, on_full: "stop" as const },
        path: `${first!.path}.old`,
      };
      const before = configWith(config, { targets: [old] });
      const beside = configWith(config, { targets: [old, ...config.targets] });
      await using all = await openTarget(before, "old");
      await write(redis, before, 0, DOCUMENTS - 1);
      await drain(redis, before, all);
      await assert.rejects(drain(redis, beside, a), /deno task target add a/);
      for (const target of [a, b]) await addTarget(redis, target, beside, "session");
      await write(redis, beside, DOCUMENTS - 1, 1);
      await drain(redis, beside, all, a, b, all);
      assert.deepEqual(await lengths(redis, config), [1, 1, 1, 1]);
      await equal({ ...two, config: beside }, all, IDS);
      await removeTarget(redis, beside, "session", "old");
      await updateDocument(redis, config, "session", IN_A[0]!, { again: 1 });
      await drain(redis, config, a, b);
      await equal(two, a, IN_A);
      await equal(two, b, IN_B);
      const [status] = await readStatus(redis, a, config, "session");
      assert.deepEqual([status!.warnings, status!.stuck], [[], []]);
    }, HALVES);

    await step(
      "where Redis says how many partitions there are, they must fit",
      async ({ redis, config, a }) => {
        const auto = configWith(config, { streams: { partitions: "auto" } });
        {
          // Nothing is written yet: as many as the ranges have.
          await using first = await connectRedis(auto);
          await write(first, auto, 0, DOCUMENTS);
        }
        assert.equal(await redis.hget("stream:settings:session", "partitions"), "4");
        await drain(redis, auto, a);
        assert.deepEqual(idsIn(config, 0), IN_A);
        await redis.hset("stream:settings:session", "partitions", "5");
        const again = configWith(config, { streams: { partitions: "auto" } });
        await assert.rejects(
          connectRedis(again),
          /^ConfigError: targets\[1\]\.partitions: session has 5 partitions: no target's range has partition 4 of 5; /,
        );
      },
      HALVES,
    );

    await step("the commands ask all of them", async ({ redis, config, a, b }) => {
      await write(redis, config, 0, DOCUMENTS);
      await drain(redis, config, a, b);
      const { host, port } = config.redis;
      const { streams, search_index } = HALVES;
      const file = await configFile({ streams, search_index, targets: [...config.targets] });
      const environment = { REDIS_URL: `redis://${host}:${port}`, NO_COLOR: "1" };
      const run = async (...args: string[]) => {
        await using task = startTask([...args, "--config", file], environment);
        const { code } = await task.status;
        return { code, output: task.output() };
      };
      await redis.del(documentKey(config, "session", IN_B[0]!));
      const [rebuilt, list, show, one] = await Promise.all([
        run("rebuild"),
        run("dead-letter", "list"),
        run("dead-letter", "show", "1"),
        run("verify", "--target", "b", "--json"),
      ]);
      assert.match(rebuilt.output, /^a: .* 0 documents written, .*\nb: .* 1 document written/m);
      assert.deepEqual([rebuilt.code, list.code, show.code], [0, 0, 1]);
      assert.match(show.output, /name the target, whose number that is, by --target/);
      assert.match(one.output, /"documents": \d+/);
      const verified = await run("verify");
      assert.match(verified.output, /^a:\n.* 0 mismatches.*\nb:\n.* 0 mismatches/m);
    }, HALVES);
  }));
