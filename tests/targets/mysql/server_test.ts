/** What a MySQL server may do to a sink, or refuse it. */

import assert from "node:assert/strict";
import { dirname } from "node:path";
import {
  caughtUp,
  type Config,
  configWith,
  connectRedis,
  consumePeriodically,
  type DeepPartial,
  insertDocument,
  openTarget,
  parseConfig,
  RedisWriteBehind,
  type TargetConfig,
  updateDocument,
  verify,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { Author } from "../../faults/author.ts";
import { withSeed } from "../../faults/seed.ts";
import { testMariadb, testRedis, waitFor } from "../../support/servers.ts";
import { databaseOn, sharedServers } from "./place.ts";

const { server, ignore, redis: redisServer } = await sharedServers();

type Given = Extract<TargetConfig, { kind: "mysql" }>;

const configFor = (target: Given, overrides: DeepPartial<Config> = {}): Config =>
  configWith(parseConfig("", "test.yaml"), {
    targets: [target],
    redis: { host: redisServer.host, port: redisServer.port },
    write_behind: { lease_seconds: 2, retry_base_ms: 5, retry_max_ms: 100 },
    ...overrides,
  });

/** A database, and an emptied Redis in front of it. */
async function pipeline(overrides: DeepPartial<Config> = {}, on = server) {
  await using stack = new AsyncDisposableStack();
  const database = stack.use(await databaseOn(on));
  const config = configFor(database.target, overrides);
  const redis = stack.use(await connectRedis(config));
  await redis.flushall();
  const target = stack.use(await openTarget(config));
  const owned = stack.move();
  return {
    ...database,
    config,
    redis,
    to: target,
    insert: (id: string, document = {}) =>
      insertDocument(redis, config, "session", document, id, { overwrite: true }),
    drain: async () => {
      await using sink = new RedisWriteBehind(redis, target, config, "session");
      return await sink.drain();
    },
    verify: () => verify(redis, target, config, "session"),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The one message of what a sink is refused with. */
async function refusal(work: () => Promise<unknown>): Promise<string> {
  const error = await work().then(() => null, (error: Error) => error);
  assert(error !== null, "nothing was refused");
  return error.message;
}

Deno.test({
  name: "MariaDB: a server that cannot be used gets one line that says what to do",
  ignore,
}, async (t) => {
  await using database = await databaseOn(server);
  const { target } = database;
  const cases: [what: string, given: Partial<Given>, message: RegExp][] = [
    [
      "nothing listens there",
      { port: 1 },
      /^Cannot connect to MySQL at .*: connection refused: .*targets\.\w+\.host and targets\.\w+\.port/,
    ],
    [
      "a wrong password",
      { password: "wr0ng" },
      /Access denied for user .*; check user and password of this target, and ssl/,
    ],
    [
      "no such database",
      { database: "none" },
      /Unknown database 'none'; create it: CREATE DATABASE/,
    ],
  ];
  for (const [what, given, message] of cases) {
    await t.step(what, async () => {
      const said = await refusal(() => openTarget(configFor({ ...target, ...given })));
      assert.match(said, message);
      assert(!said.includes("\n") && !said.includes(server.password) && !said.includes("wr0ng"));
    });
  }
});

Deno.test({ name: "MariaDB: servers share no folder for temporary tables", ignore }, async () => {
  await using database = await databaseOn(server);
  const [row] = await database.run("SELECT @@tmpdir AS own, @@datadir AS data") as {
    own: string;
    data: string;
  }[];
  assert.equal(dirname(row!.own), dirname(row!.data.replace(/\/$/, "")));
});

Deno.test({ name: "MariaDB: a server that is too old is refused", ignore }, async () => {
  // A MariaDB says of itself what it is told to.
  const cases: [version: string, refused: boolean][] = [
    ["8.0.16", true],
    ["8.0.17", false],
    ["10.5.29-MariaDB", true],
  ];
  for (const [version, refused] of cases) {
    await using other = await testMariadb([`--version=${version}`]);
    await using database = await databaseOn(other);
    const opening = async () => await (await openTarget(configFor(database.target))).close();
    if (!refused) await opening();
    else {
      const kind = version.includes("MariaDB") ? "MariaDB" : "MySQL";
      assert.match(
        await refusal(opening),
        new RegExp(
          `the server is ${kind} ${version}.*, and MySQL 8.0.17 or MariaDB 10.6 is needed`,
        ),
      );
    }
  }
});

Deno.test({
  name: "MariaDB: a table that could not hold documents is refused, and left as it is",
  ignore,
}, async (t) => {
  const columns =
    "created_at DATETIME(3), updated_at DATETIME(3), version BIGINT NOT NULL DEFAULT 0";
  const id = "id VARCHAR(512) COLLATE utf8mb4_nopad_bin";
  const table = (first: string, rest = "") =>
    `CREATE TABLE sessions (${first}, payload LONGTEXT, ${columns}${rest}) CHARACTER SET utf8mb4`;
  const cases: [what: string, sql: string, message: RegExp][] = [
    [
      "a collation",
      table("id VARCHAR(512) PRIMARY KEY"),
      /its id is compared by utf8mb4_general_ci/,
    ],
    [
      "one that ignores spaces at the end",
      table("id VARCHAR(512) COLLATE utf8mb4_bin PRIMARY KEY"),
      /its id is compared by utf8mb4_bin, and must be/,
    ],
    ["a short id", table(`${id.replace("512", "100")} PRIMARY KEY`), /its id takes 100 characters/],
    ["no key", table(id), /its one unique key must be id/],
    ["a part of a key", table(id, ", PRIMARY KEY (id(20))"), /its one unique key must be id/],
    [
      "another key",
      table(`${id} PRIMARY KEY`, ", UNIQUE (version)"),
      /its one unique key must be id/,
    ],
    [
      "an engine",
      `${table(`${id} PRIMARY KEY`)} ENGINE = Aria`,
      /its engine Aria has no transactions/,
    ],
    [
      "a column",
      "CREATE TABLE sessions (id INT PRIMARY KEY)",
      /it has no column payload, created_at/,
    ],
    [
      "a payload of another charset",
      table(`${id} PRIMARY KEY`).replace("LONGTEXT", "LONGTEXT CHARACTER SET latin1"),
      /its payload is no LONGTEXT of utf8mb4/,
    ],
    ["a view", "CREATE VIEW sessions AS SELECT 1 AS id", /it is a view/],
  ];
  for (const [what, sql, message] of cases) {
    await t.step(what, async () => {
      await using own = await pipeline();
      await own.run(sql);
      await own.insert("a");
      assert.match(await refusal(own.drain), message);
    });
  }
});

Deno.test({
  name: "MariaDB: commits that are not durable, and a server that only reads, are refused",
  ignore,
}, async () => {
  await using other = await testMariadb();
  await using own = await pipeline({}, other);
  await own.insert("a");
  await own.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2");
  assert.match(await refusal(own.drain), /innodb_flush_log_at_trx_commit is 2: .*set it to 1/);
  await own.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1; SET GLOBAL read_only = 1");
  assert.match(await refusal(own.drain), /The server only reads \(read_only\)/);
  await own.run("SET GLOBAL read_only = 0");
  assert.equal((await own.drain()).rows, 1);
});

Deno.test({
  name: "MariaDB: whatever the server's settings are, rows are as they should be",
  ignore,
}, async () => {
  await using other = await testMariadb([
    "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH",
    "--default-time-zone=+05:00",
    "--autocommit=0",
    "--transaction-isolation=SERIALIZABLE",
    "--max-statement-time=0.2",
    "--character-set-server=latin1",
    "--lower-case-table-names=1",
    "--innodb-lock-wait-timeout=1",
  ]);
  await using own = await pipeline({}, other);
  const at = Date.now();
  await own.insert("a'\"\\ ", { text: 'it\'s "ü" \\ 😀', n: 1.5 });
  await own.insert("b");
  await own.drain();
  await updateDocument(own.redis, own.config, "session", "b", { n: 2 });
  await own.drain();
  const { counts, equal } = await own.verify();
  assert.deepEqual([counts.mismatches, equal], [0, 2]);
  const [row] = await own.run("SELECT created_at FROM sessions WHERE id = 'b'") as {
    created_at: string;
  }[];
  const created = new Date(`${row!.created_at.replace(" ", "T")}Z`);
  assert(Math.abs(created.getTime() - at) < 60_000, row!.created_at);
});

Deno.test({
  name: "MariaDB: a small max_allowed_packet halves nothing but messages, and parks what is larger",
  ignore,
}, async () => {
  await using other = await testMariadb(["--max-allowed-packet=1M"]);
  await using own = await pipeline({}, other);
  for (let n = 0; n < 30; n++) await own.insert(`d${n}`, { text: "x".repeat(100_000), n });
  await own.insert("large", { text: "x".repeat(900_000) });
  const { rows, parked } = await own.drain();
  assert.deepEqual([rows, parked], [30, 1]);
  assert.equal((await own.to.offsets.standing(partitionKeys(own.config, "session", 0))).parked, 1);
  // 1,024 of them are too long for one message, 256 are not.
  for (const half of [0, 1]) {
    await Promise.all(
      Array.from({ length: 700 }, (_, n) => own.insert(`${half}-${n}`, { text: "x".repeat(1200) })),
    );
  }
  assert.equal((await own.drain()).rows, 1400);
  assert.equal((await own.verify()).equal, 1430);
  const [letter] = await Array.fromAsync(own.to.deadLetters!.list("session", "parked"));
  assert.match(letter!.reason, /takes \d+ bytes in a statement, and max_allowed_packet is 1048576/);
});

Deno.test(
  { name: "MariaDB: what the table refuses is parked, and the rest goes in", ignore },
  async (t) => {
    const signal = (state: string) =>
      `CREATE TRIGGER bad BEFORE INSERT ON sessions FOR EACH ROW
     IF NEW.id LIKE 'bad%' THEN SIGNAL SQLSTATE '${state}' SET MESSAGE_TEXT = 'no'; END IF`;
    const cases: Record<string, string> = {
      ...Object.fromEntries(
        ["45000", "UE001", "02000", "40001", "HY000", "42000", "22001"].map((
          state,
        ) => [`SIGNAL ${state}`, signal(state)]),
      ),
      "a check": "ALTER TABLE sessions ADD CHECK (id NOT LIKE 'bad%')",
      "a generated column": "ALTER TABLE sessions ADD n INT AS (JSON_VALUE(payload, '$.n')) STORED",
      "a foreign key": `CREATE TABLE known LIKE sessions; INSERT INTO known (id) VALUES ${
        Array.from({ length: 41 }, (_, n) => `('fine ${n}')`)
      };
       ALTER TABLE sessions ADD FOREIGN KEY (id) REFERENCES known (id)`,
      "a row of another table":
        `CREATE TABLE seen (id VARCHAR(512) PRIMARY KEY) ENGINE = InnoDB; INSERT INTO seen VALUES ('bad 3');
       CREATE TRIGGER bad BEFORE INSERT ON sessions FOR EACH ROW
         IF NEW.id LIKE 'bad%' THEN INSERT INTO seen VALUES ('bad 3'); END IF`,
      "a partition":
        `ALTER TABLE sessions PARTITION BY RANGE COLUMNS (id) (PARTITION low VALUES LESS THAN ('bad'),
         PARTITION high VALUES LESS THAN ('fine~'))`,
    };
    for (const [what, sql] of Object.entries(cases)) {
      await t.step(what, async () => {
        await using own = await pipeline();
        await own.insert("fine 0", { n: 0 });
        await own.drain();
        await own.run(sql);
        const bad = what === "a partition" ? "z bad" : "bad";
        for (let n = 1; n <= 40; n++) {
          const isBad = n === 17 || n === 30;
          const id = `${isBad ? bad : "fine"} ${n}`;
          await own.insert(id, { n: isBad ? "none" : n });
        }
        const { parked } = await own.drain();
        assert.equal(parked, 2);
        const { counts, rows } = await own.verify();
        assert.deepEqual([counts.mismatches, counts.parked, rows], [0, 2, 39]);
      });
    }
  },
);

Deno.test(
  { name: "MariaDB: a fault that hits every document parks nothing", ignore },
  async (t) => {
    const cases: [what: string, fault: string, mend: string][] = [
      [
        "a column is gone",
        "ALTER TABLE sessions RENAME COLUMN payload TO other",
        "ALTER TABLE sessions RENAME COLUMN other TO payload",
      ],
      [
        "a column that must be given",
        "ALTER TABLE sessions ADD must INT NOT NULL",
        "ALTER TABLE sessions DROP must",
      ],
      [
        "a trigger refuses all",
        `CREATE TRIGGER none BEFORE INSERT ON sessions FOR EACH ROW SIGNAL SQLSTATE '45000';
       CREATE TRIGGER nor BEFORE UPDATE ON sessions FOR EACH ROW SIGNAL SQLSTATE '45000'`,
        "DROP TRIGGER none; DROP TRIGGER nor",
      ],
    ];
    for (const [what, fault, mend] of cases) {
      await t.step(what, async () => {
        await using own = await pipeline();
        await own.insert("a", { n: 1 });
        await own.drain();
        await using sink = consumePeriodically(own.redis, own.to, own.config, "session");
        await own.run(fault);
        for (const id of ["a", "b", "c"]) await own.insert(id, { n: 2 });
        await waitFor(() => sink.status.partitions[0]!.failuresInARow > 3, {
          what: "some failures",
        });
        assert.equal(sink.status.parked, 0);
        await own.run(mend);
        await caughtUp(own.redis, own.to, own.config, "session");
        assert.equal(sink.status.parked, 0);
        assert.equal((await own.verify()).equal, 3);
      });
    }
  },
);

Deno.test(
  { name: "MariaDB: sessions that are killed under traffic lose nothing", ignore },
  () =>
    withSeed(async (random) => {
      const write_behind = { batch_size: 20, lease_seconds: 2, retry_base_ms: 5, retry_max_ms: 50 };
      await using own = await pipeline({ write_behind });
      const author = new Author(own.redis, own.config, { random, documents: 60, paceMs: 1 });
      await using sink = consumePeriodically(own.redis, own.to, own.config, "session");
      const writing = author.start();
      for (let kills = 0; kills < 30;) {
        const { events } = sink.status;
        await waitFor(() => sink.status.events > events, { what: "the sink to go on" });
        const sessions = await own.run(
          "SELECT id FROM information_schema.processlist WHERE db = ? AND id <> CONNECTION_ID()",
          [own.target.database],
        ) as { id: string }[];
        for (const { id } of sessions) {
          await own.run(`KILL ${id}`).then(() => kills++, () => {}); // it was gone already
        }
      }
      await writing.stop();
      await caughtUp(own.redis, own.to, own.config, "session");
      const { counts, rows } = await own.verify();
      assert.deepEqual([counts.mismatches, rows], [0, author.documents().size]);
      const { events } = await own.to.offsets.standing(partitionKeys(own.config, "session", 0));
      assert.equal(events, author.events, "each event is applied once");
    }),
);

Deno.test({ name: "MariaDB: more partitions than a pool has by itself", ignore }, async () => {
  await using fresh = await testRedis();
  const redis = { host: fresh.host, port: fresh.port };
  await using own = await pipeline({ streams: { partitions: 16 }, redis });
  for (let n = 0; n < 200; n++) await own.insert(`d${n}`, { n });
  await using _sink = consumePeriodically(own.redis, own.to, own.config, "session");
  await caughtUp(own.redis, own.to, own.config, "session", { deadlineMs: 20_000 });
  assert.equal((await own.verify()).equal, 200);
});

Deno.test(
  { name: "MariaDB: sinks that begin at once leave each other's sessions alone", ignore },
  async () => {
    for (let round = 0; round < 5; round++) {
      await using own = await pipeline();
      await own.to.migrate("session");
      await using stack = new AsyncDisposableStack();
      const failures: string[] = [];
      const sinks = await Promise.all(Array.from({ length: 4 }, async () => {
        const target = stack.use(await openTarget(own.config));
        const sink = stack.use(new RedisWriteBehind(own.redis, target, own.config, "session"));
        sink.events.on("failed", ({ error }) => failures.push(error.message));
        return sink;
      }));
      for (const sink of sinks) sink.start();
      await own.insert("a");
      await caughtUp(own.redis, own.to, own.config, "session");
      assert.deepEqual(failures, []);
    }
  },
);

Deno.test(
  { name: "MariaDB: a session that is silent since its lease has ended is followed", ignore },
  async () => {
    await using own = await pipeline();
    const keys = partitionKeys(own.config, "session", 0);
    const [silent, standby] = await Promise.all([openTarget(own.config), openTarget(own.config)]);
    await using _silent = silent;
    await using _standby = standby;
    assert(await silent.ownership.claim(keys, "silent", 0.5)); // it renews nothing, and holds the lock
    await waitFor(() => standby.ownership.claim(keys, "standby", 10), { what: "the partition" });
  },
);

Deno.test({
  name: "MariaDB: a user that may not make tables is told what an administrator runs",
  ignore,
}, async () => {
  await using own = await pipeline();
  const { database } = own.target;
  const user = `u_${database.slice(-12)}`;
  await own.run(
    `CREATE USER ${user} IDENTIFIED BY 'pw'; GRANT SELECT, INSERT, UPDATE, DELETE ON ${database}.* TO ${user}`,
  );
  const config = configFor({ ...own.target, user, password: "pw" });
  await using target = await openTarget(config);
  await own.insert("a");
  const drain = async () => {
    await using sink = new RedisWriteBehind(own.redis, target, config, "session");
    return await sink.drain();
  };
  const message = await refusal(drain);
  assert.match(message, /The user may not make or change the tables for session in MySQL at/);
  await own.run(message.slice(message.indexOf("\n\n")));
  assert.equal((await drain()).rows, 1);
  await own.run(`DROP USER ${user}`);
});
