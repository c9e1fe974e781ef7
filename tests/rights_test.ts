/** The rights that docs/operating.md gives are enough for the main path, and each that a writer lacks is named. */

import assert from "node:assert/strict";
import {
  addTarget,
  adopt,
  type Config,
  configWith,
  connectPostgres,
  connectRedis,
  createSearchIndex,
  type DeepPartial,
  deleteDocument,
  insertDocument,
  listDeadLetters,
  listTargets,
  loadMetrics,
  mendStreams,
  openTarget,
  pauseTarget,
  readByIds,
  readCache,
  readStatus,
  rebuild,
  RedisWriteBehind,
  removeTarget,
  repairRedis,
  repairTarget,
  replayDeadLetters,
  resumeTarget,
  search,
  turnCacheOff,
  turnCacheOn,
  updateDocument,
  verify,
} from "writebehind";
import { serveMetrics } from "writebehind/metrics/prometheus.ts";
import { targetOf } from "writebehind/targets/open.ts";
import { documentedGrants, section } from "./docs/pages.ts";
import { assertEqual, drain, type Pipeline, testPipeline } from "./support/pipeline.ts";
import { seriesOf } from "./support/prometheus.ts";

const page = section("docs/operating.md", "## The smallest rights");
type User = "writer" | "operator";
/** Of one Redis: a cluster has a test of its own. */
const ACL = [...page.matchAll(/^ACL SETUSER (writer|operator) (.*)$/gm)]
  .map(([, user, rules]) => [user as User, rules!.replace("PASSWORD", "word").split(" ")] as const);
const DURABLE = [
  .../durability, the writer needs (.*) as well/.exec(page)![1]!.matchAll(/`([^`]+)`/g),
]
  .map(([, rule]) => rule!);
/** What the page adds for an entity with a cache. */
const CACHED = new Map(
  [...page.matchAll(/an? (writer|operator)(?: needs)? `(~stream:notes:session [^`]*)`/g)]
    .map(([, user, rules]) => [user!, rules!.split(" ")]),
);
const CACHE = {
  name: "session",
  table: "sessions",
  index_name: "idx:sessions",
  cache: { enabled: true },
};
const GRANTS = documentedGrants();

/** Makes the documented users; returns configurations that connect as them. */
async function documented(pipeline: Pipeline) {
  for (const [user, rules] of ACL) await pipeline.redis.acl("SETUSER", user, "reset", ...rules);
  const { postgresql } = pipeline.config;
  for (const statement of GRANTS.replace("'PASSWORD'", "'word'").split(";\n").filter(Boolean)) {
    await pipeline.pool.query(statement);
  }
  const as = (username: string) =>
    pipeline.with({
      redis: { username, password: "word" },
      postgresql: { user: "app", password: "word", database: postgresql.database },
    });
  return { writer: as("writer"), operator: as("operator") };
}

Deno.test("the main path runs with just the documented rights", async () => {
  await using pipeline = await testPipeline();
  const { writer, operator } = await documented(pipeline);
  try {
    await using writing = await connectRedis(writer, { rights: "writer" });
    await using redis = await connectRedis(operator);
    await using pool = await connectPostgres(operator);
    const own = { redis, pool, config: operator };
    await createSearchIndex(redis, operator, "session");
    const big = { user_id: "big", note: "x".repeat(2_000_000), numbers: [0.1, 1e300] };
    for (let n = 0; n < 20; n++) {
      const options = { requestId: `r${n}` };
      await insertDocument(
        writing,
        writer,
        "session",
        { user_id: `user_${n}`, n },
        `d${n}`,
        options,
      );
    }
    await insertDocument(writing, writer, "session", big, "big");
    await updateDocument(writing, writer, "session", "big", { more: "y".repeat(1000) });
    await updateDocument(writing, writer, "session", "d1", { n: -1 });
    await deleteDocument(writing, writer, "session", "d2");
    assert.equal((await readByIds(writing, writer, "session", ["d1"]))[0]?.n, -1);
    assert.equal(
      (await search(writing, writer, "session", { text: { user_id: "user_3" } })).total,
      1,
    );
    // What the page adds for durability.
    await pipeline.redis.acl("SETUSER", "writer", ...DURABLE);
    await insertDocument(writing, writer, "session", {}, "durable", { durability: "fsync" });
    await drain(own);
    await assertEqual(pipeline);
    const [status] = await readStatus(redis, pool, operator, "session");
    assert.deepEqual(status!.stuck, []);
    {
      await using sink = new RedisWriteBehind(redis, pool, operator, "session");
      const target = targetOf(pool, operator);
      const watched = { redis, target, config: operator, entity: "session" };
      await using metrics = serveMetrics({ port: 0 });
      metrics.watch(watched, sink);
      const scrape = await (await fetch(metrics.url)).text();
      const up = { 'server="target",target="postgresql"': 1, 'server="redis"': 1 };
      assert.deepEqual(seriesOf(scrape, "writebehind_server_up"), up);
      assert.deepEqual(Object.values(seriesOf(scrape, "writebehind_lag_events")), [0]);
    }
    await writing.counters.flush();
    assert((await loadMetrics(redis))["metrics:redis_success"] >= 24);

    await pipeline.pool.query(
      "UPDATE sessions SET payload = '{}', version = version - 1 WHERE id = 'd3'",
    );
    const seen = await verify(redis, pool, operator, "session");
    assert.equal(seen.counts.mismatches, 1);
    await repairTarget(redis, operator, "session", seen.mismatches);
    await drain(own);
    await pipeline.redis.call("JSON.SET", "session:d4", "$.n", "99");
    const changed = await verify(redis, pool, operator, "session");
    assert.equal(changed.counts.mismatches, 1);
    await repairRedis(redis, pool, operator, "session", changed.mismatches);
    assert.equal((await verify(redis, pool, operator, "session")).counts.mismatches, 0);
    await assertEqual(pipeline);

    await pipeline.pool.query(
      "ALTER TABLE sessions ADD CONSTRAINT good CHECK (NOT payload ? 'bad')",
    );
    await insertDocument(writing, writer, "session", { bad: 1 }, "parked");
    await drain(own);
    assert.equal((await Array.fromAsync(listDeadLetters(pool, operator, "session"))).length, 1);
    await pipeline.pool.query("ALTER TABLE sessions DROP CONSTRAINT good");
    await replayDeadLetters(redis, pool, operator, "session", { all: true });
    await assertEqual(pipeline);

    const [name] = operator.targets.map((target) => target.name);
    await pauseTarget(redis, operator, "session", name!);
    await resumeTarget(redis, operator, "session", name!);
    await removeTarget(redis, operator, "session", name!);
    await deleteDocument(writing, writer, "session", "d6");
    assert.equal((await listTargets(redis, operator, "session"))[0]!.state, "removed");
    const added = await addTarget(redis, targetOf(pool, operator), operator, "session");
    assert.deepEqual([added.removed, added.refusedDocuments], [1, 0]);
    await insertDocument(writing, writer, "session", {}, "since");
    await drain(own);
    await assertEqual(pipeline);

    await mendStreams(redis, pool, operator, "session");
    await adopt(redis, pool, operator, "session");
    await pipeline.redis.del("session:d5");
    assert.equal((await rebuild(redis, pool, operator, "session")).restored, 1);
    await assertEqual(pipeline);
  } finally {
    await pipeline.pool.query("DROP OWNED BY app; DROP ROLE app");
  }
});

Deno.test("a cache runs with just the documented rights", async () => {
  await using pipeline = await testPipeline({ entities: [CACHE] });
  const { writer, operator } = await documented(pipeline);
  const select = /`(GRANT SELECT ON [^`]*writebehind_dead_letter)`/.exec(page)![1]!;
  await pipeline.pool.query(`CREATE ROLE reader LOGIN PASSWORD 'word'; ${select} TO reader`);
  try {
    for (const [user, rules] of CACHED) await pipeline.redis.acl("SETUSER", user, ...rules);
    const reader = configWith(writer, { postgresql: { user: "reader" } });
    await using writing = await connectRedis(reader, { rights: "writer" });
    await using redis = await connectRedis(operator);
    await using pool = await connectPostgres(operator);
    const write = (id: string) => insertDocument(writing, reader, "session", { n: 1.5 }, id);
    const evict = (...ids: string[]) =>
      pipeline.redis.del(ids.flatMap((id) => [`session:${id}`, `stream:asked:session:${id}`]));
    const read = (...ids: string[]) => readByIds(writing, reader, "session", ids);
    for (const id of ["a", "b", "c"]) await write(id);
    await drain({ redis, pool, config: operator });
    await evict("a", "b", "c");
    assert.deepEqual(await read("a", "none", "a"), [{ n: 1.5 }, null, { n: 1.5 }]);
    await updateDocument(writing, reader, "session", "b", { m: 1 }, { requestId: "once" });
    await updateDocument(writing, reader, "session", "a", { n: 0.1 + 0.2 });
    await deleteDocument(writing, reader, "session", "c");
    assert.deepEqual(await read("b", "c"), [{ n: 1.5, m: 1 }, null]);
    await assert.rejects(write("b"), { code: "exists" });
    await insertDocument(writing, reader, "session", {}, "c", { overwrite: true, ttlSeconds: 100 });
    await drain({ redis, pool, config: operator });
    await evict("a");
    const { counts, evicted } = await verify(redis, pool, operator, "session");
    assert.deepEqual([counts.mismatches, evicted], [0, 1]);
    assert.equal((await rebuild(redis, pool, operator, "session")).restored, 1);
    await using target = await openTarget(operator);
    assert.equal((await turnCacheOff(redis, target, operator, "session")).state, "off");
    assert.equal((await turnCacheOn(redis, target, operator, "session")).state, "on");
    assert.equal((await readCache(redis, operator, "session")).pending, 0);
    // An older file was loaded: what could be evicted goes.
    await evict("a");
    await pipeline.redis.del("stream:session");
    await drain({ redis, pool, config: operator });
    assert.deepEqual(await read("a"), [{ n: 0.1 + 0.2 }]);
  } finally {
    await pipeline.pool.query("DROP OWNED BY app, reader; DROP ROLE app, reader");
  }
});

/** What only some calls need: making an index and mending a stream. They name it themselves. */
const OF_SOME_CALLS = ["ft.create", "ft.dropindex", "rename", "stream:session:mend"];

Deno.test("each documented command and key that a user lacks is named when connecting", async (t) => {
  await using pipeline = await testPipeline();
  const durably = { enabled: true, wait_for_replicas: true, wait_for_aof_rewrite: true };
  const each: [User, string[], string[], DeepPartial<Config>][] = ACL.flatMap(([user, rules]) => [
    [user, rules, rules, {}],
    [user, CACHED.get(user)!, [...rules, ...CACHED.get(user)!], { entities: [CACHE] }],
  ]);
  const rulesOf = new Map(ACL);
  const writing = rulesOf.get("writer")!;
  each.push(["writer", DURABLE, [...writing, ...DURABLE], { zero_data_loss: durably }]);
  for (const [user, without, rules, changes] of each) {
    for (const rule of without.filter((rule) => /^[+~]/.test(rule))) {
      const name = rule.slice(1);
      if (OF_SOME_CALLS.includes(name)) continue;
      await t.step(`${user} without ${rule}`, async () => {
        const rest = rules.filter((one) => one !== rule);
        await pipeline.redis.acl("SETUSER", user, "reset", ...rest);
        const as = pipeline.with({ redis: { username: user, password: "word" } });
        const connecting = connectRedis(configWith(as, changes), { rights: user });
        await assert.rejects(connecting, (error: Error) => {
          const word = name.replace("*", "").replace("|", " ").split(" ")[0]!;
          assert(error.message.toLowerCase().includes(word), error.message);
          assert.match(error.message, /grant (it|them) by ACL SETUSER/);
          return true;
        });
      });
    }
  }
  await t.step("an operator needs no rights of durability", async () => {
    await pipeline.redis.acl("SETUSER", "operator", "reset", ...rulesOf.get("operator")!);
    const config = pipeline.with({
      redis: { username: "operator", password: "word" },
      zero_data_loss: { ...durably, wait_for_replicas: false },
    });
    await using _ = await connectRedis(config, { rights: "operator" });
    await assert.rejects(connectRedis(config), /may not run SCRIPT, WAITAOF; grant them by ACL/);
  });
});

Deno.test("each documented GRANT that the user lacks is named when a partition is claimed", async () => {
  await using pipeline = await testPipeline();
  const { operator } = await documented(pipeline);
  try {
    const config = pipeline.with({ postgresql: { ...operator.postgresql, password: "word" } });
    await using pool = await connectPostgres(config);
    for (const [, rights, tables] of GRANTS.matchAll(/GRANT ([A-Z, ]+) ON ([a-z_, ]+) TO/g)) {
      for (const table of tables!.split(", ")) {
        for (const right of rights!.split(", ")) {
          await pipeline.pool.query(`REVOKE ${right} ON ${table} FROM app`);
          await assert.rejects(drain({ ...pipeline, pool, config }), (error: Error) => {
            assert.match(error.message, /permission denied/);
            assert.match(
              error.message,
              new RegExp(`lacks ${right} ON "?${table}|for table ${table}`),
            );
            return true;
          });
          await pipeline.pool.query(`GRANT ${right} ON ${table} TO app`);
        }
      }
    }
    await drain({ ...pipeline, pool, config });
  } finally {
    await pipeline.pool.query("DROP OWNED BY app; DROP ROLE app");
  }
});
