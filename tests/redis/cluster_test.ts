/** A real cluster: writing, reading, searching and operating over its nodes. */

import assert from "node:assert/strict";
import {
  caughtUp,
  type Config,
  ConfigError,
  configWith,
  connectRedis,
  consumePeriodically,
  createSearchIndex,
  deleteDocument,
  DocumentError,
  insertDocument,
  loadMetrics,
  openTarget,
  parseConfig,
  readByIds,
  readFigures,
  readStatus,
  rebuild,
  type RedisConnection,
  RedisRefusedError,
  repairTarget,
  repartition,
  search,
  updateDocument,
  verify,
} from "writebehind";
import { asCluster } from "writebehind/cli/services.ts";
import { parseRedisUrl } from "writebehind/config/redis_address.ts";
import { findRedisClient } from "writebehind/dev/servers/binaries.ts";
import { askNode, startCluster } from "writebehind/dev/servers/cluster.ts";
import { readPasswords } from "writebehind/dev/servers/passwords.ts";
import { documentIds } from "writebehind/redis/documents.ts";
import { allPartitions, documentKey, partitionKeys } from "writebehind/redis/keys.ts";
import { slotOf } from "writebehind/redis/slots.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { CERTIFICATES } from "../support/certificates.ts";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { TestCluster } from "../support/cluster.ts";
import { assertEqual, drain, type Pipeline, pipelineOn, rowsOf } from "../support/pipeline.ts";
import { testFolder, testPostgres, testRedis, waitFor } from "../support/servers.ts";

const cluster = await TestCluster.start();
const postgres = await testPostgres();
Deno.test.afterAll(async () => {
  await cluster[Symbol.asyncDispose]();
  await postgres[Symbol.asyncDispose]();
});

/** A pipeline over the cluster, emptied. */
const inCluster = (overrides: Parameters<typeof cluster.pipeline>[1] = {}) =>
  cluster.pipeline(postgres, { streams: { partitions: 8 }, ...overrides });

const idsOf = (count: number) => Array.from({ length: count }, (_, n) => `doc-${n}`);

Deno.test("documents are written, changed, read and deleted on the nodes that have them", async () => {
  await using pipeline = await inCluster();
  const { redis, config } = pipeline;
  const ids = idsOf(60);
  await Promise.all(ids.map((id, n) => insertDocument(redis, config, "session", { n }, id)));
  await updateDocument(redis, config, "session", "doc-1", { n: 100 });
  await deleteDocument(redis, config, "session", "doc-2");
  await assert.rejects(insertDocument(redis, config, "session", {}, "doc-3"), DocumentError);
  const found = await readByIds(redis, config, "session", ["doc-0", "doc-1", "doc-2", "doc-59"]);
  assert.deepEqual(found, [{ n: 0 }, { n: 100 }, null, { n: 59 }]);
  const again = { requestId: "once" };
  const first = await insertDocument(redis, config, "session", { n: 1 }, "again", again);
  const second = await insertDocument(redis, config, "session", { n: 1 }, "again", again);
  assert.deepEqual(second, { ...first, repeated: true });
  const masters = new Set(
    await Promise.all(
      ids.map(async (id) => (await cluster.masterOf(documentKey(config, "session", id))).port),
    ),
  );
  assert.equal(masters.size, 3, "the documents are on all masters");
  await redis.counters.flush();
  assert.equal((await loadMetrics(redis))["metrics:redis_success"], 64);
  const ended = new Promise((end) => redis.once("end", () => end("ended")));
  await redis.close();
  assert.equal(await ended, "ended");
});

Deno.test("a write waits for the replicas of its own node", async () => {
  await using pipeline = await inCluster({ zero_data_loss: { wait_timeout_ms: 300 } });
  const { redis, config } = pipeline;
  const durability = "replicas" as const;
  const write = (id: string) => insertDocument(redis, config, "session", {}, id, { durability });
  await Promise.all(idsOf(20).map(write));
  // Of ids that are on different nodes, only that of the replica that hangs is not confirmed.
  const [here, there] = ["x-1", "x-2", "x-3", "x-4", "x-5"].map((id) => ({
    id,
    node: cluster.masterOf(documentKey(config, "session", id)),
  })).slice(0, 2);
  const replica = await cluster.replicaOf(await here!.node);
  const other = (await there!.node).port !== (await here!.node).port ? there!.id : "x-9";
  await replica.kill("SIGSTOP");
  try {
    await assert.rejects(write(here!.id), { name: "DurabilityError" });
    if (other === there!.id) await write(other);
  } finally {
    await replica.kill("SIGCONT");
  }
});

Deno.test("a sink carries all partitions on, and the operator's commands walk over the nodes", async () => {
  await using pipeline = await inCluster();
  const { redis, config, pool } = pipeline;
  const ids = idsOf(100);
  await Promise.all(ids.map((id, n) => insertDocument(redis, config, "session", { n }, id)));
  {
    await using _sink = consumePeriodically(redis, pool, config, "session");
    await caughtUp(redis, pool, config, "session", { deadlineMs: 30_000 });
  }
  assert.equal((await rowsOf(pipeline)).size, 100);
  const { documents, rows, equal } = await verify(redis, pool, config, "session");
  assert.deepEqual({ documents, rows, equal }, { documents: 100, rows: 100, equal: 100 });
  const { written, applied } = await readFigures(redis, pool, config, "session");
  assert.deepEqual({ written, applied }, { written: 100, applied: 100 });

  const statuses = await readStatus(redis, pool, config, "session");
  for (const { stream, node } of statuses) {
    assert.equal(node, `127.0.0.1:${(await cluster.masterOf(stream)).port}`);
  }

  await pool.query("UPDATE sessions SET payload = '{\"n\":-1}' WHERE id = 'doc-7'");
  const { mismatches } = await verify(redis, pool, config, "session");
  assert.deepEqual(mismatches.map(({ id }) => id), ["doc-7"]);
  await repairTarget(redis, config, "session", mismatches);
  await drain(pipeline);
  assert.equal((await verify(redis, pool, config, "session")).counts.mismatches, 0);

  await cluster.empty();
  await rebuild(redis, pool, config, "session");
  assert.deepEqual(await readByIds(redis, config, "session", ["doc-7"]), [{ n: 7 }]);
});

Deno.test("a slot moves: what has moved is read and changed, and inserts wait until it is over", async () => {
  await using pipeline = await inCluster();
  const { redis, config } = pipeline;
  const ids = idsOf(200);
  await Promise.all(ids.map((id, n) => insertDocument(redis, config, "session", { n }, id)));
  const { stream, documentPrefix } = partitionKeys(config, "session", 0);
  const mine = ids.filter((id) => documentKey(config, "session", id).startsWith(documentPrefix));
  const from = await cluster.masterOf(stream);
  const to = await cluster.masterBeside(from);
  let inserted: Promise<unknown> | undefined;
  let began = 0;
  let waited = 0;
  await cluster.move(stream, to, async () => {
    const found = await readByIds(redis, config, "session", mine);
    assert.equal(found.filter((one) => one === null).length, 0, "all are found on either node");
    if (inserted !== undefined) return;
    began = performance.now();
    const id = newIdIn(config, documentPrefix);
    inserted = insertDocument(redis, config, "session", {}, id).then(() => {
      waited = performance.now() - began;
    });
  });
  await inserted;
  assert(waited > 0 && waited < 5000, `an insert waited ${waited} ms for the move`);
  await insertDocument(redis, config, "session", {}, newIdIn(config, documentPrefix));
  const keys = await askNode(to, "CLUSTER", "COUNTKEYSINSLOT", slotOf(stream));
  assert(Number(keys) > mine.length);
  await drain(pipeline);
  await assertEqual(pipeline);
  await cluster.move(stream, from);
});

/** An id of the partition with this prefix. */
function newIdIn(config: Pipeline["config"], prefix: string): string {
  for (;;) {
    const id = `new-${crypto.randomUUID()}`;
    if (documentKey(config, "session", id).startsWith(prefix)) return id;
  }
}

Deno.test("a slot that stays between two nodes: a write is refused, and may be repeated", async () => {
  await using pipeline = await inCluster({
    redis: { ...cluster.config, command_timeout_ms: 500 },
  });
  const { redis, config } = pipeline;
  await insertDocument(redis, config, "session", {}, "doc-0");
  const key = documentKey(config, "session", "doc-0");
  const from = await cluster.masterOf(key);
  const to = await cluster.masterBeside(from);
  const refused = (error: unknown) => {
    assert(error instanceof RedisRefusedError, String(error));
    assert.equal(error.code, "TRYAGAIN");
  };
  await assert.rejects(
    cluster.move(key, to, async () => {
      const id = newIdIn(config, key.slice(0, -"doc-0".length));
      await insertDocument(redis, config, "session", {}, id).catch(refused);
      throw new Error("stop here");
    }),
    { message: "stop here" },
  );
  const slot = slotOf(key);
  await askNode(from, "CLUSTER", "SETSLOT", slot, "STABLE");
  await askNode(to, "CLUSTER", "SETSLOT", slot, "STABLE");
  await cluster.empty();
});

Deno.test("what is no cluster, or cannot be reached, is told", async () => {
  const { port } = cluster.nodes[0]!;
  const plain = configWith(parseConfig("", "f"), { redis: { host: "127.0.0.1", port } });
  await assert.rejects(connectRedis(plain), {
    message: /name some of its nodes in redis\.cluster/,
  });
  const nowhere = configWith(plain, { redis: { cluster: [{ host: "127.0.0.1", port: 1 }] } });
  await assert.rejects(connectRedis(nowhere), {
    message: /no node tells of the cluster: 127\.0\.0\.1:1: connection refused/,
  });
  const cases = {
    "cluster: []": "expected at least one node, or null",
    "cluster: [a:1]": "expected a host and a port",
    "{ cluster: [{ host: a }], db: 1 }": "a cluster has database 0 only",
    "{ cluster: [{ host: a }], sentinels: [{ host: b }], sentinel_name: m }":
      "expected null, since there is a cluster",
  };
  for (const [text, message] of Object.entries(cases)) {
    const section = text.startsWith("{") ? text : `{ ${text} }`;
    assert.throws(() => parseConfig(`redis: ${section}`, "f"), (error) => {
      assert(error instanceof ConfigError);
      assert(error.message.includes(message), error.message);
      return true;
    });
  }
  const { redis, streams } = parseConfig("redis: { cluster: [{ host: a }] }", "f");
  assert.deepEqual([redis.cluster, streams.partitions], [[{ host: "a", port: 6379 }], 16]);
});

Deno.test("the commands of an operator, with the rights that the pages give", async () => {
  await using pipeline = await inCluster();
  const page = await Deno.readTextFile("docs/operating.md");
  const [, rules] = /ACL SETUSER clustered (on >PASSWORD .*)/.exec(page)!;
  for (const node of cluster.nodes) {
    await askNode(node, "ACL", "SETUSER", "clustered", ...rules!.split(" "));
  }
  const user = { username: "clustered", password: "PASSWORD" };
  const config = pipeline.with({ redis: { ...user, cluster: [cluster.config.cluster[1]!] } });
  await using redis = await connectRedis(config);
  await createSearchIndex(redis, config, "session");
  for (const [n, id] of idsOf(20).entries()) {
    await insertDocument(redis, config, "session", { n }, id);
  }
  await drain({ ...pipeline, redis, config });
  assert.equal((await search(redis, config, "session", {})).total, 20);
  const environment = environmentOf(config);
  const file = `${testFolder("config")}.yaml`;
  await Deno.writeTextFile(file, "streams: { partitions: 8 }");
  const outputOf = async (command: string, ...args: string[]) => {
    const task = [...command.split(" "), "--config", file, ...args];
    await using running = startTask(task, environment);
    await running.status;
    return running.output();
  };
  const status = await outputOf("status");
  assert.match(status, /^Redis redis-cluster:\/\/clustered:\*\*\*@127\.0\.0\.1:\d+ /m);
  for (const keys of allPartitions(config, "session")) {
    const { port } = await cluster.masterOf(keys.stream);
    assert(status.includes(`${keys.stream} | ok | Redis 127.0.0.1:${port} |`), status);
  }
  assert.match(await outputOf("verify"), /20 documents, 20 rows, 20 equal/);
  assert.match(await outputOf("target list"), /stream:\{session-7\} \| .* \| active/);
  assert.match(await outputOf("dead-letter list"), /^none$/m);
  assert.match(await outputOf("mend"), /nothing/i);
  assert.match(await outputOf("redis-cli", "EXISTS", "stream:{session-3}"), /^\d$/m);
});

Deno.test("the lines that are printed for a cluster with a password lead to it", async () => {
  const root = testFolder("checkout");
  const { redis: password } = await readPasswords(root);
  const own = await startCluster({ dir: testFolder("cluster"), masters: 3, replicas: 0, password });
  try {
    const lines = asCluster(own.nodes, root);
    assert(!lines.includes(password));
    const [command] = /^export .*$/m.exec(lines)!;
    const { stdout } = await new Deno.Command("sh", {
      args: ["-c", `${command}; printf %s "$REDIS_URL"`],
    }).output();
    const redis = parseRedisUrl("REDIS_URL", new TextDecoder().decode(stdout));
    const config = configWith(parseConfig("", "f"), { redis });
    await using connection = await connectRedis(config);
    await insertDocument(connection, config, "session", { n: 1 }, "doc-0");
    assert.deepEqual(await readByIds(connection, config, "session", ["doc-0"]), [{ n: 1 }]);
  } finally {
    await own.stop();
  }
});

Deno.test("nodes that speak TLS are trusted, each by its certificate", async () => {
  await using pipeline = await inCluster();
  const { server, authority } = CERTIFICATES;
  const ports: number[] = [];
  for (const node of cluster.nodes) {
    ports.push(freePort());
    const files = ["tls-cert-file", server, "tls-key-file", server, "tls-ca-cert-file", authority];
    const more = ["tls-auth-clients", "no", "tls-port", ports.at(-1)!];
    await askNode(node, "CONFIG", "SET", ...files, ...more);
  }
  await cluster.settled();
  const seeds = { cluster: [{ host: "127.0.0.1", port: ports[0]! }], tls: true };
  const config = pipeline.with({ redis: { ...seeds, tls_ca_file: authority } });
  const redis = await waitFor(async () => {
    const connection = await connectRedis(config);
    // The nodes tell each other of the new ports.
    const told = connection.servers.every(({ node }) => ports.includes(node!.port));
    if (!told) connection.disconnect();
    return told ? connection : undefined;
  }, { what: "all TLS ports to be known", deadlineMs: 30_000 });
  for (const id of idsOf(10)) await insertDocument(redis, config, "session", {}, id);
  await drain({ ...pipeline, redis, config });
  assert.equal((await rowsOf(pipeline)).size, 10);
  await redis.close();
  await assert.rejects(connectRedis(pipeline.with({ redis: seeds })), /certificate/);
  for (const node of cluster.nodes) await askNode(node, "CONFIG", "SET", "tls-port", 0);
});

Deno.test("a node is away: a search says so, and counts that it could not take are sent when it is back", async () => {
  await using pipeline = await inCluster({ metrics: { flush_interval_ms: 50 } });
  const { redis, config } = pipeline;
  await createSearchIndex(redis, config, "session");
  const node = await cluster.masterOf("metrics:redis_retry");
  await node.kill();
  await waitFor(() => !redis.at("metrics:redis_retry").sends, { what: "the connection's end" });
  redis.counters.count("redis_retry", 7, "away");
  redis.counters.count("redis_fail", 3, "there");
  await redis.counters.flush();
  await assert.rejects(search(redis, config, "session", {}), {
    code: "incomplete",
    message: /\d of 8 partitions do not answer/,
  });
  const part = await search(redis, config, "session", {}, { partial: true });
  assert.deepEqual(part, { total: 0, documents: [], partial: true });
  await cluster.restart(node);
  await waitFor(async () => (await loadMetrics(redis))["metrics:redis_retry"] === 7, {
    what: "the counts",
    deadlineMs: 30_000,
  });
  assert.equal((await loadMetrics(redis))["metrics:redis_fail"], 3);
  await cluster.settled();
});

Deno.test("a scan, and a verify, go over a slot that moves meanwhile", async () => {
  await using pipeline = await inCluster();
  const { redis, pool, config } = pipeline;
  for (const [n, id] of idsOf(40).entries()) {
    await insertDocument(redis, config, "session", { n }, id);
  }
  const partitions = allPartitions(config, "session");
  const scan = async () => {
    const found = new Set<string>();
    for await (const { ids } of documentIds(redis, partitions, partitions.slice(0, 1))) {
      for (const id of ids) found.add(id.toString());
    }
    return [...found].sort();
  };
  const before = await scan();
  await drain(pipeline);
  const { stream } = partitionKeys(config, "session", 0);
  const from = await cluster.masterOf(stream);
  const to = await cluster.masterBeside(from);
  let verified: ReturnType<typeof verify> | undefined;
  let scanned: ReturnType<typeof scan> | undefined;
  let moved = 0;
  await cluster.move(stream, to, () => {
    verified ??= verify(redis, pool, config, "session");
    if (++moved === 4) scanned = scan();
    return new Promise((resolve) => setTimeout(resolve, 20));
  });
  assert.deepEqual(await scanned, before, "also what is on either node while it moves");
  const { documents, rows, equal, counts } = await verified!;
  assert.deepEqual({ documents, rows, equal }, { documents: 40, rows: 40, equal: 40 });
  assert.equal(counts.mismatches, 0);
  await cluster.move(stream, from);
});

Deno.test("a new node is used as soon as it has a slot", async () => {
  await using pipeline = await inCluster();
  const { redis, config } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "doc-0");
  const key = documentKey(config, "session", "doc-0");
  const from = await cluster.masterOf(key);
  const added = await cluster.add();
  await cluster.move(key, added);
  await updateDocument(redis, config, "session", "doc-0", { n: 2 });
  assert.deepEqual(await readByIds(redis, config, "session", ["doc-0"]), [{ n: 2 }]);
  await drain(pipeline);
  await assertEqual(pipeline);
  await cluster.move(key, from);
  assert.deepEqual(await readByIds(redis, config, "session", ["doc-0"]), [{ n: 2 }]);
  assert.equal(redis.at(key).address, `127.0.0.1:${from.port}`);
});

Deno.test("a search asks the index of each partition, which is made anew where its slot has moved", async () => {
  await using pipeline = await inCluster();
  const { redis, config, pool } = pipeline;
  await assert.rejects(search(redis, config, "session", {}), { code: "no_index" });
  assert.equal((await createSearchIndex(redis, config, "session")).status, "created");
  assert.equal((await createSearchIndex(redis, config, "session")).status, "unchanged");
  for (const [n, id] of idsOf(40).entries()) {
    const device_type = n % 2 === 0 ? "ios" : "web";
    await insertDocument(redis, config, "session", { user_id: `u${n}`, device_type }, id);
  }
  const find = async (options = {}) => {
    const found = await search(redis, config, "session", { tag: { device_type: "ios" } }, options);
    return { total: found.total, ids: found.documents.map(({ id }) => id) };
  };
  const all = await find({ limit: 40 });
  assert.equal(all.total, 20);
  const even = idsOf(40).filter((_, n) => n % 2 === 0);
  assert.deepEqual(all.ids.toSorted(), even.toSorted());
  assert.deepEqual(await find({ offset: 5, limit: 10 }), { total: 20, ids: all.ids.slice(5, 15) });

  const { stream, documentPrefix } = partitionKeys(config, "session", 0);
  const from = await cluster.masterOf(stream);
  const to = await cluster.masterBeside(from);
  let looked = false;
  await cluster.move(stream, to, async () => {
    if (looked) return;
    looked = true;
    await assert.rejects(find(), { code: "incomplete" });
  });
  await assert.rejects(find(), { code: "incomplete" });
  // What the others have is in its place, and said to be a part.
  const part = await search(redis, config, "session", { tag: { device_type: "ios" } }, {
    limit: 40,
    partial: true,
  });
  const there = all.ids.filter((id) =>
    !documentKey(config, "session", id).startsWith(documentPrefix)
  );
  assert.deepEqual(part.documents.map(({ id }) => id), there);
  assert.deepEqual([part.total, part.partial], [there.length, true]);
  assert(there.length < all.total);
  {
    await using _sink = consumePeriodically(redis, pool, config, "session");
    await waitFor(
      async () => (await find({ limit: 40 }).catch(() => ({ total: 0 }))).total === 20,
      {
        what: "the sink to make the index where the slot is now",
        deadlineMs: 30_000,
      },
    );
  }
  await cluster.move(stream, from);
  assert.deepEqual((await find({ limit: 40 })).ids.toSorted(), even.toSorted());
});

Deno.test("a single Redis moves into the cluster: repartitioned, then imported", async () => {
  await cluster.empty();
  await using single = await testRedis();
  const servers = { redis: single, postgres, [Symbol.asyncDispose]: async () => {} };
  await using before = await pipelineOn(servers);
  const ids = idsOf(60);
  const insert = (redis: RedisConnection, config: Config, id: string, n: number) =>
    insertDocument(redis, config, "session", { n }, id, { requestId: `r-${id}` });
  const receipts = await Promise.all(
    ids.map((id, n) => insert(before.redis, before.config, id, n)),
  );
  await drain(before);
  await using target = await openTarget(before.config);
  await repartition(before.redis, [target], before.config, "session", { to: 8 });
  const { program, env } = await findRedisClient();
  const place = ({ host, port }: { host: string; port: number }) => `${host}:${port}`;
  const { success, stdout } = await new Deno.Command(program, {
    args: [
      ...["--cluster", "import", place(cluster.nodes[0]!), "--cluster-from", place(single)],
      "--cluster-copy",
    ],
    env,
  }).output();
  assert(success, new TextDecoder().decode(stdout));
  const config = before.with({ redis: cluster.config, streams: { partitions: "auto" } });
  await using redis = await connectRedis(config);
  const after = { ...before, redis, config };
  for (const id of ids) {
    const again = await insert(redis, config, id, ids.indexOf(id));
    assert.deepEqual(again, { ...receipts[ids.indexOf(id)], repeated: true });
  }
  await updateDocument(redis, config, "session", "doc-1", { n: 100 });
  const { version } = await insertDocument(redis, config, "session", { n: 0 }, "new");
  assert(version! > receipts[0]!.version!);
  await drain(after);
  await assertEqual(after);
  const report = await verify(redis, target, config, "session");
  assert.deepEqual([report.documents, report.mismatches], [61, []]);
  await repartition(redis, [target], config, "session", { to: 3 });
  assert.deepEqual(await readByIds(redis, config, "session", ["doc-1"]), [{ n: 100 }]);
  const later = await verify(redis, target, config, "session");
  assert.deepEqual([later.documents, later.mismatches], [61, []]);
});
