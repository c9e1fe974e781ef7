import assert from "node:assert/strict";
import { join } from "node:path";
import { servicesFolder } from "writebehind/config/checkout.ts";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { readRecord, writeRecord } from "writebehind/config/record.ts";
import {
  type Config,
  connectRedis,
  describeServers,
  parseConfig,
  resolveServers,
  serverOverrides,
} from "writebehind";
import { freePort, isAlive, processStartTime } from "writebehind/dev/servers/processes.ts";
import {
  releaseServices,
  resetServices,
  runningServices,
  runServices,
  type ServicesOptions,
  startServices,
  stopServices,
} from "writebehind/dev/servers/services.ts";
import { stringify } from "yaml";
import { queryAt, testFolder, testPostgres, testRedis, waitFor } from "../support/servers.ts";

const NAMES = ["postgres", "redis", "replica"];

/** Services with a root and ports of their own, which stop with the test. */
function ownServices():
  & { config: Config }
  & Required<Pick<ServicesOptions, "root" | "env">>
  & AsyncDisposable {
  const root = testFolder("root");
  Deno.mkdirSync(root);
  const config = parseConfig(
    `redis: { port: ${freePort()} }\npostgresql: { port: ${freePort()} }`,
    "test.yaml",
  );
  return {
    root,
    config,
    env: () => undefined,
    [Symbol.asyncDispose]: async () => void await stopServices({ root }),
  };
}

async function connects(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    return true;
  } catch {
    return false;
  }
}

Deno.test("a second start finds the running servers", async () => {
  await using own = ownServices();
  const first = await startServices(own);
  const running = await runningServices(own);
  assert.deepEqual(first.started.toSorted(), NAMES);
  assert.deepEqual(first.source, { redis: "embedded", database: "embedded" });
  const second = await startServices(own);
  assert.deepEqual(second, { ...first, started: [] });
  assert.deepEqual(await runningServices(own), running);
});

Deno.test("starts at the same time start one set of servers", async () => {
  await using own = ownServices();
  const both = await Promise.all([startServices(own), startServices(own)]);
  assert.deepEqual(both.flatMap(({ started }) => started).toSorted(), NAMES);
  assert.equal(both[0].redisUrl, both[1].redisUrl);
});

Deno.test("a server that has ended is started again, a dead primary with its replica", async () => {
  await using own = ownServices();
  await startServices(own);
  const before = await runningServices(own);
  assert(before.redis && before.replica && before.postgres);
  Deno.kill(before.redis.pid, "SIGKILL");
  await waitFor(async () => !(await runningServices(own)).redis, { what: "Redis's end" });
  await assert.rejects(resolveServers(own.config, own), /Redis has ended and the other still runs/);

  const { started } = await startServices(own);
  assert.deepEqual(started, ["redis", "replica"]);
  const after = await runningServices(own);
  assert.deepEqual(after.postgres, before.postgres);
  assert(!isAlive(before.replica));
});

Deno.test("a reset leaves running servers empty, on their ports, with those who use them", async () => {
  await using own = ownServices();
  const servers = await startServices(own);
  const { databaseUrl } = servers;
  const { holders } = await readRecord(own.root);
  await queryAt(databaseUrl, "CREATE TABLE old ()");
  const config = parseConfig(stringify(serverOverrides(servers)), "test.yaml");
  {
    await using redis = await connectRedis(config);
    await redis.set("old", 1);
  }
  assert.deepEqual((await resetServices(own)).toSorted(), NAMES);
  await using redis = await connectRedis(config);
  assert.equal(await redis.dbsize(), 0);
  const [row] = await queryAt(databaseUrl, "SELECT to_regclass('old') AS old");
  assert.deepEqual(row, { old: null });
  assert.deepEqual((await readRecord(own.root)).holders, holders);

  redis.disconnect();
  await stopServices(own);
  assert.deepEqual(await resetServices(own), []);
  await assert.rejects(Deno.stat(join(servicesFolder(own.root), "postgres")), Deno.errors.NotFound);
  assert.deepEqual(await runningServices(own), {});
});

Deno.test("stopping leaves no process, no port and no record", async () => {
  await using own = ownServices();
  await startServices(own);
  const servers = Object.values(await runningServices(own));
  assert.equal(servers.length, 3);
  assert.deepEqual(await stopServices(own), ["replica", "redis", "postgres"]);
  for (const server of servers) {
    assert(!isAlive(server));
    assert(!await connects(server.port));
  }
  for (const name of ["redis/redis.log", "replica/redis.log", "postgres/postgres.log"]) {
    const log = await Deno.readTextFile(join(servicesFolder(own.root), name));
    assert.match(log, /ready to exit, bye bye|database system is shut down/);
  }
  assert.deepEqual(await runningServices(own), {});
  await assert.rejects(
    Deno.stat(join(servicesFolder(own.root), "state.json")),
    Deno.errors.NotFound,
  );
  assert.deepEqual(await stopServices(own), []);
});

Deno.test("servers outlive their starter, and stay while another process needs them", async () => {
  await using own = ownServices();
  const url = new URL("../../lib/dev/servers/services.ts", import.meta.url).href;
  const starter = new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `const { startServices } = await import(${JSON.stringify(url)});
      await startServices({ root: ${JSON.stringify(own.root)}, env: () => undefined });
      setInterval(() => {}, 1e6);`,
    ],
    cwd: CHECKOUT,
  }).spawn();
  try {
    await waitFor(async () => Object.keys(await runningServices(own)).length === 3, {
      what: "the other process's servers",
      deadlineMs: 60_000,
    });
    assert.deepEqual((await startServices(own)).started, []);
    const heldBy = await waitFor(async () => {
      const { heldBy } = await releaseServices(own);
      return heldBy.length > 0 ? heldBy : undefined;
    }, { what: "the other process's hold" });
    assert.deepEqual(heldBy, [starter.pid]);
    assert.equal(Object.keys(await runningServices(own)).length, 3);
  } finally {
    starter.kill("SIGKILL");
    await starter.status;
  }
  assert.equal(Object.keys(await runningServices(own)).length, 3, "its end ended the servers");
  const { stopped } = await releaseServices(own);
  assert.deepEqual(stopped.toSorted(), NAMES);
});

Deno.test("runServices keeps the servers until its signal, or until they are stopped", async () => {
  await using own = ownServices();
  const interrupt = new AbortController();
  const released = await runServices({
    ...own,
    signal: interrupt.signal,
    onReady: () => interrupt.abort(),
  });
  assert.deepEqual(released.stopped.toSorted(), NAMES);

  const never = new AbortController();
  let stopping: Promise<unknown> | undefined;
  const left = await runServices({
    ...own,
    signal: never.signal,
    onReady: () => stopping = stopServices(own),
  });
  await stopping;
  assert.deepEqual(left, { stopped: [], heldBy: [] });
});

Deno.test("a server named by the environment is not started", async () => {
  await using own = ownServices();
  const env = (name: string) =>
    name === "DATABASE_URL" ? "postgresql://me:secret@db.example/x" : undefined;
  const services = await startServices({ ...own, env });
  assert.deepEqual(services.started.toSorted(), ["redis", "replica"]);
  assert.deepEqual(services.source, { redis: "embedded", database: "environment" });
});

Deno.test("a failing start stops what it started", async () => {
  await using own = ownServices();
  await Deno.mkdir(servicesFolder(own.root));
  await Deno.writeTextFile(join(servicesFolder(own.root), "postgres"), "in the way of its folder");
  await assert.rejects(startServices(own));
  assert.deepEqual(await runningServices(own), {});
  assert(!await connects(own.config.redis.port));
});

Deno.test("a recycled pid is neither taken for a server nor killed", async () => {
  await using own = ownServices();
  const bystander = new Deno.Command("sleep", { args: ["60"], stdin: "null" }).spawn();
  try {
    const startTime = processStartTime(bystander.pid);
    assert(startTime);
    const url = "redis://127.0.0.1:1";
    const recycled = { pid: bystander.pid, startTime: `${startTime}0`, port: 1, url };
    await Deno.mkdir(servicesFolder(own.root));
    writeRecord({ servers: { redis: recycled, postgres: recycled }, holders: [] }, own.root);
    assert.deepEqual(await runningServices(own), {});
    assert.equal((await resolveServers(own.config, own)).source.redis, "config");
    assert.deepEqual(await stopServices(own), []);
    assert(isAlive({ pid: bystander.pid, startTime }), "the bystander was killed");
  } finally {
    bystander.kill("SIGKILL");
    await bystander.status;
  }
});

Deno.test("another Redis on the port of one that has ended is not taken for it", async () => {
  await using own = ownServices();
  const { redisUrl } = await startServices(own);
  const { redis } = await runningServices(own);
  Deno.kill(redis!.pid, "SIGSTOP");
  assert.equal(
    (await resolveServers(own.config, own)).redisUrl,
    redisUrl,
    "a silent one still runs",
  );
  Deno.kill(redis!.pid, "SIGKILL");
  await waitFor(() => !isAlive(redis!), { what: "Redis's end" });
  await using other = await testRedis({ port: redis!.port });
  assert.equal(other.port, redis!.port);
  await assert.rejects(resolveServers(own.config, own), /Redis has ended and the other still runs/);
  const env = (name: string) =>
    name === "DATABASE_URL" ? "postgresql://me@db.example/x" : undefined;
  await stopServices(own);
  writeRecord({ servers: { redis: redis! }, holders: [] }, own.root);
  assert.equal((await resolveServers(own.config, { ...own, env })).source.redis, "config");
});

Deno.test("a command finds the servers with the rights of its task, which are few", async () => {
  await using own = ownServices();
  const { redisUrl, databaseUrl } = await startServices(own);
  const { tasks } = JSON.parse(await Deno.readTextFile(join(CHECKOUT, "deno.json"))) as {
    tasks: Record<string, { command: string }>;
  };
  const script = `${testFolder("resolve")}.ts`;
  await Deno.writeTextFile(
    script,
    `import { resolveServers } from ${
      JSON.stringify(new URL("../../lib/config/servers.ts", import.meta.url).href)
    };
    const options = { root: ${JSON.stringify(own.root)}, env: () => undefined };
    console.log(JSON.stringify(await resolveServers(${JSON.stringify(own.config)}, options)));`,
  );
  for (const task of ["sink", "status", "verify", "dead-letter", "rebuild"]) {
    const rights = tasks[task]!.command.match(/--allow-\S+/g) ?? [];
    assert(!rights.some((right) => right.startsWith("--allow-run")), `${task} may run programs`);
    const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", ...rights, script],
      cwd: CHECKOUT,
    }).output();
    const decoder = new TextDecoder();
    assert.deepEqual(JSON.parse(decoder.decode(stdout) || "null"), {
      redisUrl,
      databaseUrl,
      targets: [null],
      source: { redis: "embedded", database: "embedded" },
    }, decoder.decode(stderr));
  }
});

Deno.test("addresses: the environment, else running servers, else the config", async () => {
  await using own = ownServices();
  const config = parseConfig(
    `redis: { host: cache.example, password: p@ss/1 }
postgresql: { host: "::1", user: me, password: "s:ecret", database: d b, ssl: true }`,
    "test.yaml",
  );
  const resolve = (variables: Record<string, string>) =>
    resolveServers(config, { root: own.root, env: (name) => variables[name] });

  const configured = await resolve({ REDIS_URL: "" });
  assert.deepEqual(configured.source, { redis: "config", database: "config" });
  assert.deepEqual(serverOverrides(configured), {
    redis: {
      cluster: null,
      sentinels: null,
      sentinel_name: null,
      host: "cache.example",
      port: 6379,
      db: 0,
      username: null,
      password: "p@ss/1",
      tls: false,
    },
    postgresql: {
      host: "::1",
      port: 5432,
      database: "d b",
      user: "me",
      password: "s:ecret",
      ssl: true,
    },
  });
  const line = describeServers(configured);
  assert.match(line, /cache\.example:6379 \(config file\).*\[::1\]:5432.*\(config file\)/);
  assert.doesNotMatch(line, /ecret|p%40ss|p@ss/);

  const { redisUrl, databaseUrl } = await startServices(own);
  const embedded = await resolve({});
  assert.deepEqual(embedded, {
    redisUrl,
    databaseUrl,
    targets: [null],
    source: { redis: "embedded", database: "embedded" },
  });

  const mixed = await resolve({ REDIS_URL: "rediss://u:hidden@other:7000/0" });
  assert.deepEqual(mixed.source, { redis: "environment", database: "embedded" });
  assert.match(describeServers(mixed), /rediss:\/\/u:\*\*\*@other:7000\/0 \(REDIS_URL\)/);
  assert.equal(serverOverrides(mixed).redis.tls, true);

  for (const bad of ["hidden", "http://u:hidden@host", "redis://u:hidden@host:port"]) {
    await assert.rejects(resolve({ REDIS_URL: bad }), (error: Error) => {
      assert.match(error.message, /^REDIS_URL(:| holds no address)/);
      assert.doesNotMatch(error.message, /hidden/);
      return true;
    });
  }
});

Deno.test("a busy port leads to another", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  await using redis = await testRedis({ port });
  await using postgres = await testPostgres({ port });
  assert.notEqual(redis.port, port);
  assert.notEqual(postgres.port, port);
});

Deno.test({
  name: "servers listen on loopback only, in a session of their own",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await using redis = await testRedis();
    await using postgres = await testPostgres();
    const listening = (await Promise.all(
      ["tcp", "tcp6"].map((table) => Deno.readTextFile(`/proc/net/${table}`).catch(() => "")),
    )).flatMap((table) => table.split("\n").slice(1)).map((line) => line.trim().split(/\s+/))
      .filter(([, , , state]) => state === "0A").map(([, address = ""]) => address.split(":"));
    for (const { port, pid } of [redis, postgres]) {
      const addresses = listening.filter(([, hex = ""]) => Number.parseInt(hex, 16) === port);
      assert.deepEqual(addresses.map(([address]) => address), ["0100007F"]);
      assert.notEqual(await sessionOf(pid), await sessionOf(Deno.pid));
    }
  },
});

async function sessionOf(pid: number): Promise<string | undefined> {
  const stat = await Deno.readTextFile(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3];
}

Deno.test("PostgreSQL started again on its folder keeps its port and its data", async () => {
  await using first = await testPostgres();
  await queryAt(first.url, "CREATE TABLE kept AS SELECT 42 AS answer");
  const { dir, port } = first;
  await first.stop("immediate");
  await using second = await testPostgres({ dir, port });
  assert.equal(second.port, port);
  assert.deepEqual(await queryAt(second.url, "SELECT answer FROM kept"), [{ answer: 42 }]);
  await second.kill();
  await using third = await testPostgres({ dir, port, extraSettings: { work_mem: "5MB" } });
  assert.deepEqual(await queryAt(third.url, "SELECT answer FROM kept"), [{ answer: 42 }]);
  assert.deepEqual(await queryAt(third.url, "SHOW work_mem"), [{ work_mem: "5MB" }]);
  const defaults = "SELECT current_setting('fsync') || current_setting('synchronous_commit') AS s";
  assert.deepEqual(await queryAt(third.url, defaults), [{ s: "onon" }]);
  await assert.rejects(
    queryAt(third.url.replace(/:\w+@/, ":wrong@"), "SELECT"),
    /password/,
  );
});

Deno.test("a killed server has left its port when kill() returns", async () => {
  let server = await testRedis();
  const { dir, port } = server;
  for (let i = 0; i < 10; i++) {
    await server.kill();
    server = await testRedis({ dir, port });
    assert.equal(server.port, port);
  }
  await server[Symbol.asyncDispose]();
});

Deno.test("a server that does not get ready is an error with the end of its log", async () => {
  await assert.rejects(
    testRedis({ extraArgs: ["--maxmemory", "plenty"] }),
    /Redis on 127\.0\.0\.1:\d+ ended at once; the end of its log:[^]*maxmemory/,
  );
  await assert.rejects(
    testPostgres({ extraSettings: { work_mem: "plenty" } }),
    /PostgreSQL on 127\.0\.0\.1:\d+ ended at once; the end of its log:[^]*work_mem/,
  );
});
