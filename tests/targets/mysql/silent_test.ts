/** Connections to a MySQL server that fall silent: nobody tells the sink, and no answer ever comes. */

import assert from "node:assert/strict";
import {
  caughtUp,
  configWith,
  connectRedis,
  insertDocument,
  openTarget,
  parseConfig,
  RedisWriteBehind,
  verify,
} from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { testRedis, waitFor } from "../../support/servers.ts";
import { databaseOn, sharedMariadb } from "./place.ts";

const shared = await sharedMariadb();
const server = shared!;
const ignore = shared === null;
Deno.test.afterAll(async () => await shared?.[Symbol.asyncDispose]());

const LEASE_SECONDS = 1;
/** How long a sink may take to carry on: it waits for a lease, or for a query, and for its next look. */
const CARRIES_ON_MS = 9000;

/** A sink that has carried one document, by a proxy; all of one state's own. */
async function carrying() {
  await using stack = new AsyncDisposableStack();
  const { host, port } = stack.use(await testRedis());
  const database = stack.use(await databaseOn(server));
  const config = configWith(parseConfig("", "test.yaml"), {
    targets: [database.target],
    redis: { host, port },
    write_behind: { lease_seconds: LEASE_SECONDS, retry_base_ms: 5, retry_max_ms: 100 },
  });
  const redis = stack.use(await connectRedis(config));
  const direct = stack.use(await openTarget(config));
  const proxy = stack.use(await TcpProxy.start(server));
  const away = configWith(config, { targets: [{ ...database.target, port: proxy.port }] });
  const target = stack.use(await openTarget(away));
  const sink = stack.use(new RedisWriteBehind(redis, target, away, "session"));
  const insert = (id: string) =>
    insertDocument(redis, config, "session", { id }, id, { overwrite: true });
  const arrives = () => caughtUp(redis, direct, config, "session", { deadlineMs: CARRIES_ON_MS });
  await insert("first");
  sink.start();
  await arrives();
  const { run, hold } = database;
  const keys = partitionKeys(config, "session", 0);
  const owned = stack.move();
  return {
    away,
    proxy,
    run,
    redis,
    target,
    sink,
    insert,
    arrives,
    /** lets connections fall silent while the server makes the sink wait for the rows of a query */
    silentBehind: async (
      sql: string,
      begin: () => unknown,
      what: string,
      also = () => Promise.resolve<unknown>(null),
    ) => {
      const rows = await hold(sql);
      try {
        await begin();
        await waitFor(async () => {
          // Nothing else takes so long; what InnoDB tells of transactions is out of date while many ask.
          const waiting = `SELECT 1 FROM information_schema.processlist
            WHERE db = ? AND command = 'Query' AND time_ms > 200 AND id <> CONNECTION_ID()`;
          return (await run(waiting, [database.target.database])).length > 0;
        }, { what });
        await also();
        proxy.vanish();
      } finally {
        await rows[Symbol.asyncDispose]();
      }
    },
    /** the rows are what was written, and each event counted once */
    exact: async (events: number) => {
      const { counts, rows } = await verify(redis, direct, config, "session");
      const standing = await direct.offsets.standing(keys);
      assert.deepEqual([counts.mismatches, rows, standing.events], [0, events, events]);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

type Carrying = Awaited<ReturnType<typeof carrying>>;

/** Brings a sink into a state, lets its connections fall silent, and leaves two documents in the table. */
const STATES: Record<string, (own: Carrying) => Promise<void>> = {
  idle: async ({ proxy, insert }) => {
    proxy.vanish();
    await insert("second");
  },
  claiming: async ({ silentBehind, insert, sink, away, redis, target }) => {
    await sink.stop();
    await using again = new RedisWriteBehind(redis, target, away, "session");
    await silentBehind(
      "SELECT 1 FROM writebehind_offset FOR UPDATE",
      () => again.start(),
      "the claim to wait for the offset",
    );
    await insert("second");
    await waitFor(() => again.status.events > 0, {
      what: "the second sink's claim",
      deadlineMs: CARRIES_ON_MS,
    });
  },
  applying: ({ silentBehind, insert }) =>
    silentBehind(
      "SELECT 1 FROM sessions FOR UPDATE",
      () => insert("second"),
      "the batch to wait for its row",
    ),
  renewing: async ({ silentBehind, insert }) => {
    await silentBehind(
      "SELECT 1 FROM writebehind_lease FOR UPDATE",
      () => {},
      "the renewal to wait for the lease",
    );
    await insert("second");
  },
  probing: async ({ silentBehind, run, insert, sink, away, redis, target }) => {
    await sink.stop();
    await using again = new RedisWriteBehind(redis, target, away, "session");
    await run(`CREATE TRIGGER no BEFORE INSERT ON sessions FOR EACH ROW
      IF NEW.id = 'bad' THEN SIGNAL SQLSTATE '45000'; END IF`);
    await silentBehind(
      "SELECT 1 FROM sessions WHERE id >= 'first' FOR UPDATE",
      async () => {
        for (const id of ["bad", "second"]) await insert(id);
        again.start();
      },
      "a row to be tried",
      // A batch would hold the offset.
      () => run("SELECT 1 FROM writebehind_offset FOR UPDATE NOWAIT"),
    );
    await waitFor(() => again.status.parked === 1, {
      what: "what is refused to be parked",
      deadlineMs: CARRIES_ON_MS,
    });
  },
  connecting: async ({ proxy, insert }) => {
    proxy.halfOpen();
    proxy.resetAll();
    await waitFor(() => proxy.connections > 0, { what: "the sink to connect again" });
    proxy.vanish();
    await proxy.heal();
    await insert("second");
  },
};

Deno.test({
  name: "MariaDB: a sink whose connections fall silent carries on, whatever it was about",
  ignore,
}, async (t) => {
  const steps = Object.entries(STATES).map(([state, bring]) =>
    t.step({
      name: state,
      sanitizeExit: false,
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        await using own = await carrying();
        await bring(own);
        await own.arrives();
        if (state !== "probing") await own.exact(2);
      },
    })
  );
  assert((await Promise.all(steps)).every(Boolean));
});

Deno.test(
  { name: "MariaDB: a stop does not wait for connections that are silent", ignore },
  async () => {
    const own = await carrying();
    own.proxy.vanish();
    const begun = performance.now();
    await own.sink.stop();
    await own.target.close();
    const ms = performance.now() - begun;
    await own[Symbol.asyncDispose]();
    assert(ms < CARRIES_ON_MS, `${ms} ms`);
  },
);

Deno.test({
  name: "MariaDB: a session that was left behind holds up no change of tables",
  ignore,
}, async () => {
  await using database = await databaseOn(server);
  const config = configWith(parseConfig("", "test.yaml"), { targets: [database.target] });
  await using target = await openTarget(config);
  // It is ended, so that nothing is left to give back.
  await database.hold("SELECT GET_LOCK(CONCAT('writebehind:ddl:', MD5(DATABASE())), 0)");
  const begun = performance.now();
  await target.migrate("session");
  const ms = performance.now() - begun;
  assert(ms < CARRIES_ON_MS, `${ms} ms`);
});
