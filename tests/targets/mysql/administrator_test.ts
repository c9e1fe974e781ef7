/** What an administrator of MariaDB sets, takes away and changes while sinks run. */

import assert from "node:assert/strict";
import {
  caughtUp,
  type Config,
  consumePeriodically,
  type DeepPartial,
  deleteDocument,
  insertDocument,
  openTarget,
  replayDeadLetters,
  verify,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { testMariadb, waitFor } from "../../support/servers.ts";
import { drain, targetPipeline } from "../pipelines.ts";
import { databaseOn, sharedMariadb } from "./place.ts";

const server = await sharedMariadb();
const ignore = server === null;
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

/** What a sink is documented to need. */
const RIGHTS = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER"];
const PASSWORD = "pw5ecret";

/** A database whose user has just these rights, and a Redis in front of it. */
async function pipeline(overrides: DeepPartial<Config> = {}, on = server!) {
  await using stack = new AsyncDisposableStack();
  const { target, run } = stack.use(await databaseOn(on));
  const user = `u_${target.database.slice(-12)}`;
  await run(
    `CREATE USER ${user} IDENTIFIED BY '${PASSWORD}';
     GRANT ${RIGHTS.join()} ON ${target.database}.* TO ${user}`,
  );
  stack.defer(async () => void await run(`DROP USER ${user}`));
  const own = stack.use(await targetPipeline({ ...target, user, password: PASSWORD }, overrides));
  const { redis, config } = own;
  const sessions = async () =>
    await run("SELECT id FROM information_schema.processlist WHERE user = ?", [user]) as {
      id: string;
    }[];
  const owned = stack.move();
  return {
    ...own,
    user,
    database: target.database,
    query: run,
    insert: (id: string, document = {}) =>
      insertDocument(redis, config, "session", document, id, { overwrite: true }),
    /** ends all sessions of the user, as a restart of the server does */
    endSessions: async () => {
      for (const { id } of await sessions()) await run(`KILL ${id}`).catch(() => {}); // it was gone
    },
    sink: () => consumePeriodically(redis, own.target, config, "session"),
    caughtUp: () => caughtUp(redis, own.target, config, "session", { deadlineMs: 60_000 }),
    verify: () => verify(redis, own.target, config, "session"),
    /** sees that so many documents are equal, and that is all */
    assertEqual: async (documents: number) => {
      const { counts, equal } = await verify(redis, own.target, config, "session");
      assert.deepEqual([counts.mismatches, counts.parked, equal], [0, 0, documents]);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

type Own = Awaited<ReturnType<typeof pipeline>>;

/** Waits for a sink to say so of its failures. */
async function says(sink: ReturnType<Own["sink"]>, message: RegExp): Promise<string> {
  const said = () => sink.status.partitions[0]?.lastError ?? "";
  await waitFor(() => message.test(said()), {
    what: `a failure like ${message}`,
    deadlineMs: 30_000,
  });
  assert(!said().includes("\n") && !said().includes("5ecret"), said());
  return said();
}

Deno.test({
  name: "MariaDB: texts and rows stay as they are, whatever a new session is given",
  ignore,
}, async () => {
  await using other = await testMariadb([
    "--character-set-server=latin1",
    "--skip-character-set-client-handshake",
    "--completion-type=RELEASE",
    "--max-join-size=1",
    "--wait-timeout=1",
    "--innodb-default-row-format=compact",
    "--max-prepared-stmt-count=0",
  ]);
  await using own = await pipeline({ write_behind: { lease_seconds: 10 } }, other);
  // More than travel as one message.
  await Promise.all(
    Array.from({ length: 600 }, (_, n) => own.insert(`dü😀${n}`, { n, text: "it's \\ ü😀" })),
  );
  await drain(own);
  await own.insert("dü😀1", { text: "é" });
  await deleteDocument(own.redis, own.config, "session", "dü😀2");
  await drain(own);
  const { counts, equal } = await own.verify();
  assert.deepEqual([counts.mismatches, equal], [0, 599]);
  const keys = partitionKeys(own.config, "session", 0);
  assert(await own.target.ownership.claim(keys, "idle", 10));
  await waitFor(async () => {
    const sessions = await own.query("SHOW PROCESSLIST") as { User: string; Time: string }[];
    return sessions.every(({ User, Time }) => User !== own.user || Number(Time) >= 3);
  }, { what: "idle sessions", deadlineMs: 30_000 });
  await using standby = await openTarget(own.config);
  assert.equal(await standby.ownership.claim(keys, "standby", 10), null, "the owner kept its lock");
});

Deno.test({
  name: "MariaDB: a right that is taken away is named, and seen again without a restart",
  ignore,
}, async (t) => {
  for (const right of ["SELECT", "INSERT", "UPDATE", "DELETE"]) {
    await t.step(right, async () => {
      await using own = await pipeline();
      for (const id of ["a", "b"]) await own.insert(id);
      await using sink = own.sink();
      await own.caughtUp();
      const on = `${right} ON ${own.database}.*`;
      await own.query(`REVOKE ${on} FROM ${own.user}`);
      await own.endSessions(); // a session keeps the rights that it began with
      await own.insert("a", { n: 2 });
      await own.insert("c", { n: 2 });
      await deleteDocument(own.redis, own.config, "session", "b");
      const named = `${right} command denied to user '${own.user}'.* for table .*; grant it to the`;
      await says(sink, new RegExp(named));
      assert.equal(sink.status.parked, 0);
      await own.query(`GRANT ${on} TO ${own.user}`);
      await own.caughtUp();
      await own.assertEqual(2);
    });
  }
});

Deno.test({
  name: "MariaDB: a login that is refused under way is told with what to do",
  ignore,
}, async (t) => {
  type Change = (own: Own) => Promise<unknown>;
  const password = (password: string): Change => (own) =>
    own.query(`ALTER USER ${own.user} IDENTIFIED BY '${password}'`);
  const connections = (most: number): Change => (own) =>
    own.query(`GRANT USAGE ON *.* TO ${own.user} WITH MAX_USER_CONNECTIONS ${most}`);
  const cases: Record<string, [fault: Change, mend: Change, message: RegExp]> = {
    "another password": [
      password("other5ecret"),
      password(PASSWORD),
      /^Cannot connect to MySQL at .*: Access denied for user .*; check user and password of this /,
    ],
    "fewer connections": [
      connections(1),
      connections(0),
      /^Cannot connect to MySQL at .*max_user_connections.*; raise it for the user .* fewer sinks$/,
    ],
  };
  for (const [what, [fault, mend, message]] of Object.entries(cases)) {
    await t.step(what, async () => {
      await using own = await pipeline();
      await own.insert("a");
      await using sink = own.sink();
      await own.caughtUp();
      await fault(own);
      await own.endSessions();
      await own.insert("b");
      await says(sink, message);
      await mend(own);
      await own.caughtUp();
      assert.equal((await own.verify()).equal, 2);
    });
  }
});

Deno.test({
  name: "MariaDB: a limit of statements that is set under way blocks nobody, nor for ever",
  ignore,
}, async () => {
  await using other = await testMariadb();
  await using own = await pipeline({}, other);
  await own.insert("a");
  await using sink = own.sink();
  await own.caughtUp();
  const large = { text: "x".repeat(100_000) };
  await own.query("SET GLOBAL max_allowed_packet = 65536");
  await own.endSessions();
  await own.insert("large", large);
  await own.insert("b");
  await own.caughtUp();
  // The commit is seen before its sink has heard of it.
  await waitFor(() => sink.status.parked === 1, { what: "the sink to know" });
  await own.query("SET GLOBAL max_allowed_packet = 1048576");
  // The same sink takes what it parked before.
  await own.insert("large2", large);
  await own.caughtUp();
  assert.equal(sink.status.parked, 1);
  await using target = await openTarget(own.config);
  await replayDeadLetters(own.redis, target, own.config, "session", { all: true });
  await own.assertEqual(4);
});

Deno.test({
  name: "MariaDB: a table whose keys change under way is written by nobody until they are mended",
  ignore,
}, async (t) => {
  const cases: [what: string, fault: string, mend: string][] = [
    [
      "no key",
      "ALTER TABLE sessions DROP PRIMARY KEY",
      "ALTER TABLE sessions ADD PRIMARY KEY (id)",
    ],
    [
      "another key",
      "ALTER TABLE sessions ADD v INT AS (JSON_VALUE(payload, '$.v')), ADD UNIQUE KEY another (v)",
      "ALTER TABLE sessions DROP KEY another",
    ],
  ];
  for (const [what, fault, mend] of cases) {
    await t.step(what, async () => {
      await using own = await pipeline();
      for (const id of ["a", "b"]) await own.insert(id, { v: id === "a" ? 1 : 2 });
      await using sink = own.sink();
      await own.caughtUp();
      await own.query(fault);
      await own.insert("a", { v: 3 });
      await own.insert("c", { v: 2 });
      await says(sink, /^Cannot use the table sessions: .*its one unique key must be id \(ADD/);
      assert.equal((await own.query("SELECT id FROM sessions")).length, 2);
      await own.query(mend);
      await own.caughtUp();
      await own.assertEqual(3);
    });
  }
});

Deno.test({ name: "MariaDB: rows that somebody doubled are told by verify", ignore }, async () => {
  await using own = await pipeline();
  for (const id of ["a", "b"]) await own.insert(id);
  await drain(own);
  await own.query(
    "ALTER TABLE sessions DROP PRIMARY KEY; INSERT INTO sessions SELECT * FROM sessions WHERE id = 'b'",
  );
  await assert.rejects(own.verify(), {
    message: /^Cannot read the table sessions: it has several rows with the id "b"; remove all but/,
  });
});

Deno.test({
  name: "MariaDB: a server whose commits are durable no longer is told without a batch that fails",
  ignore,
}, async () => {
  await using other = await testMariadb();
  await using own = await pipeline({}, other);
  await own.insert("a");
  await using sink = own.sink();
  await own.caughtUp();
  await own.query("SET GLOBAL innodb_flush_log_at_trx_commit = 2");
  await says(sink, /innodb_flush_log_at_trx_commit is 2: .*set it to 1/);
  await own.insert("b");
  await own.query("SET GLOBAL innodb_flush_log_at_trx_commit = 1");
  await own.caughtUp();
  assert.equal((await own.verify()).equal, 2);
});
