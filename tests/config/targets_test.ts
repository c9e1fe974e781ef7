import assert from "node:assert/strict";
import { ConfigError, configWith, describeServers, parseConfig, resolveServers } from "writebehind";

const targets = (text: string) => parseConfig(`targets:\n${text}`, "test.yaml").targets;

Deno.test("targets: a list; without it, the section postgresql", () => {
  const byDefault = [{ name: "postgresql", kind: "postgresql", on_full: "stop" }];
  assert.deepEqual(parseConfig("", "test.yaml").targets, byDefault);
  assert.deepEqual(targets("  - { name: postgresql, kind: postgresql }"), byDefault);
  assert.deepEqual(targets("  - { name: local, kind: sqlite, path: ./data.db }"), [
    { name: "local", kind: "sqlite", on_full: "stop", path: "./data.db" },
  ]);
  const [own, detached] = targets(
    "  - { name: a, kind: postgresql, database: b, password: s3cret }\n" +
      "  - { name: b, kind: sqlite, path: x, on_full: detach }",
  );
  assert.deepEqual({ ...own }, {
    name: "a",
    kind: "postgresql",
    on_full: "stop",
    database: "b",
  });
  assert(!Deno.inspect(own).includes("s3cret") && !JSON.stringify(own).includes("s3cret"));
  assert.equal(detached!.on_full, "detach");
  const [mysql] = targets(
    "  - { name: shop, kind: mysql, database: d, user: u, password: s3cret }",
  );
  assert.deepEqual({ ...mysql }, {
    name: "shop",
    kind: "mysql",
    on_full: "stop",
    host: "localhost",
    port: 3306,
    database: "d",
    user: "u",
    ssl: "disable",
    sslrootcert: null,
    sslcert: null,
    sslkey: null,
  });
  assert.equal(mysql!.kind === "mysql" && mysql!.password, "s3cret");
  assert(!Deno.inspect(mysql).includes("s3cret") && !JSON.stringify(mysql).includes("s3cret"));
});

Deno.test("targets: topics of Kafka, whose password is not shown", () => {
  const [kafka] = targets(
    "  - { name: changes, kind: kafka, brokers: ['b:9092', '[::1]:9093'], user: u, password: s3cret }",
  );
  assert.deepEqual({ ...kafka }, {
    name: "changes",
    kind: "kafka",
    on_full: "stop",
    brokers: ["b:9092", "[::1]:9093"],
    every_event: false,
    prefix: "",
    user: "u",
    mechanism: "SCRAM-SHA-512",
    ssl: "disable",
    sslrootcert: null,
  });
  assert.equal(kafka!.kind === "kafka" && kafka!.password, "s3cret");
  assert(!Deno.inspect(kafka).includes("s3cret") && !JSON.stringify(kafka).includes("s3cret"));
});

Deno.test("targets: a password may stand in the environment", () => {
  const text =
    "  - { name: a, kind: mysql, database: d, user: u, password: '${WRITEBEHIND_TEST}' }";
  assert.throws(
    () => targets(text),
    /^ConfigError: test\.yaml:2: targets\[0\]\.password: the environment variable WRITEBEHIND_TEST is not set/,
  );
  Deno.env.set("WRITEBEHIND_TEST", "s3cret");
  try {
    const [mysql] = targets(text);
    assert.equal(mysql!.kind === "mysql" && mysql!.password, "s3cret");
    const { redis } = parseConfig('redis: { password: "${WRITEBEHIND_TEST}" }', "test.yaml");
    assert.equal(redis.password, "s3cret");
  } finally {
    Deno.env.delete("WRITEBEHIND_TEST");
  }
});

Deno.test("targets: a database may be named by its address", () => {
  const [own] = targets(
    "  - { name: a, kind: postgresql, url: 'postgresql://app:s3cret@db:5433/shop?sslmode=require' }",
  );
  assert.deepEqual({ ...own }, {
    ...{ name: "a", kind: "postgresql", on_full: "stop", host: "db", port: 5433 },
    ...{ database: "shop", user: "app", ssl: "require" },
  });
  const [mysql] = targets(
    "  - { name: b, kind: mysql, url: 'mysql://app:s%2F@db/shop?ssl=require' }",
  );
  assert.equal(mysql!.kind === "mysql" && mysql!.password, "s/");
  assert.deepEqual({ ...mysql }, {
    ...{ name: "b", kind: "mysql", on_full: "stop", host: "db", port: 3306, database: "shop" },
    ...{ user: "app", ssl: "require", sslrootcert: null, sslcert: null, sslkey: null },
  });
  for (const target of [own, mysql]) {
    assert(!/s3cret|s\/|%2F/.test(Deno.inspect(target) + JSON.stringify(target)));
  }
  Deno.env.set("WRITEBEHIND_TEST", "mysql://app:pw@db/shop");
  try {
    const [given] = targets("  - { name: b, kind: mysql, url: '${WRITEBEHIND_TEST}' }");
    assert.equal(given!.kind === "mysql" && given!.password, "pw");
  } finally {
    Deno.env.delete("WRITEBEHIND_TEST");
  }
});

const ranged = (...ranges: string[]) =>
  ranges.map((range, index) =>
    `  - { name: t${index}, kind: sqlite, path: f${index}, partitions: ${range} }`
  ).join("\n");

Deno.test("targets: each may have a range of the partitions", () => {
  const of = (partitions: string, ...ranges: string[]) =>
    parseConfig(
      `streams: { partitions: ${partitions} }\ntargets:\n${ranged(...ranges)}`,
      "test.yaml",
    );
  const { targets } = of("4", "2-3", "0", "1-1");
  assert.deepEqual(targets.map(({ partitions }) => partitions), ["2-3", "0", "1-1"]);
  // What was checked can be checked again, and one without a range has all.
  const changed = configWith(of("auto", "0-31", "32-63"), {
    targets: [...of("auto", "0-31", "32-63").targets, { name: "all", kind: "sqlite", path: "all" }],
  });
  assert.deepEqual(changed.targets.map(({ partitions }) => partitions), [
    "0-31",
    "32-63",
    undefined,
  ]);
  const mistakes: [partitions: string, ranges: string[], message: RegExp][] = [
    [
      "4",
      ["0-3x"],
      /targets\[0\]\.partitions: expected partitions as from-to, such as 0-31, or one/,
    ],
    ["4", ["3-0"], /targets\[0\]\.partitions: expected partitions as/],
    ["4", ["-1"], /targets\[0\]\.partitions: expected partitions as/],
    ["4", ["true"], /targets\[0\]\.partitions: expected partitions as/],
    ["auto", ["0-256"], /targets\[0\]\.partitions: .* 0 to 255/],
    [
      "4",
      ["0-2", "2-3"],
      /test\.yaml:4: targets\[1\]\.partitions: partition 2 is in the range of t0 as/,
    ],
    ["auto", ["2-3", "0-2"], /targets\[0\]\.partitions: partition 2 is in the range of t1 as well/],
    ["4", ["0", "2-3"], /targets\[1\]\.partitions: no target's range has partition 1; begin this/],
    ["auto", ["1-3"], /targets\[0\]\.partitions: no target's range has partition 0; begin this/],
    ["4", ["0-1", "2-4"], /targets\[1\]\.partitions: expected at most 3, the last of 4 .*, got 4/],
    ["4", ["0-1", "2"], /targets\[1\]\.partitions: no target's range has partition 3 of 4; end/],
  ];
  const cached = "entities: [{ name: e, table: t, index_name: i, cache: { enabled: true } }]";
  assert.throws(
    () => parseConfig(`${cached}\nstreams: { partitions: 1 }\ntargets:\n${ranged("0")}`, "t.yaml"),
    /t\.yaml:1: entities\[0\]\.cache\.source: the target t0 has some of the partitions only; name/,
  );
  const detached = "targets: [{ name: t0, kind: sqlite, path: a.db, on_full: detach }]";
  assert.throws(
    () => parseConfig(`${cached}\n${detached}`, "t.yaml"),
    /t\.yaml:1: entities\[0\]\.cache\.source: the target t0 may lose its place \(on_full: detach\)/,
  );
  for (const [partitions, ranges, message] of mistakes) {
    assert.throws(() => of(partitions, ...ranges), message, ranges.join());
  }
});

Deno.test("targets: a mistake is told with its line and key", () => {
  const cases: [text: string, message: RegExp][] = [
    ["  - { name: local, kind: sqlite }", /test\.yaml:2: targets\[0\]\.path: expected the path/],
    ["  - { name: pg, kind: postgresql, path: x }", /targets\[0\]\.path: only the kind sqlite/],
    [
      "  - { name: a, kind: oracle }",
      /targets\[0\]\.kind: expected postgresql, sqlite, mysql or kafka/,
    ],
    ["  - { name: a, kind: mysql, user: u }", /targets\[0\]\.database: expected the name of a/],
    ["  - { name: a, kind: mysql, database: d }", /targets\[0\]\.user: expected the name of a/],
    [
      "  - { name: a, kind: sqlite, path: x, host: h }",
      /targets\[0\]\.host: only the kinds postgresql and mysql have a host/,
    ],
    ["  - { name: a, kind: mysql, path: x }", /targets\[0\]\.path: only the kind sqlite/],
    ["  - { name: a, kind: mysql, ssl: maybe }", /targets\[0\]\.ssl: expected disable, require/],
    [
      "  - { name: a, kind: mysql, host: 'mysql://u:p@h' }",
      /targets\[0\]\.host: expected one host/,
    ],
    ["  - { name: A B, kind: sqlite, path: x }", /targets\[0\]\.name: expected a name/],
    ["  - { name: a, kind: sqlite, path: ':memory:' }", /targets\[0\]\.path: expected the path/],
    [
      "  - { name: a, kind: postgresql }\n  - { name: b, kind: postgresql }",
      /targets\[1\]\.database: the same database as that of the target before/,
    ],
    [
      "  - { name: a, kind: sqlite, path: x }\n  - { name: a, kind: sqlite, path: y }",
      /test\.yaml:3: targets\[1\]\.name: "a" is used twice/,
    ],
    [
      "  - { name: a, kind: sqlite, path: x }\n  - { name: b, kind: sqlite, path: x }",
      /targets\[1\]\.path: "x" is used twice/,
    ],
    [
      "  - { name: a, kind: sqlite, path: x, ssl: require }",
      /only the kinds postgresql and mysql and kafka have a ssl/,
    ],
    [
      "  - { name: a, kind: sqlite, path: x, url: 'mysql://u@h/d' }",
      /url: only the kinds postgresql and mysql/,
    ],
    [
      "  - { name: a, kind: mysql, url: 'mysql://u:s3cret@h/d', user: u }",
      /\.user: it is in the url/,
    ],
    [
      "  - { name: a, kind: mysql, url: 'mysql://u:s3cret@h' }",
      /\.url: holds no address: it names no database; expected mysql/,
    ],
    ["  - { name: a, kind: mysql, url: 'mysql://h/d' }", /\.url: holds no address: it has no user/],
    [
      "  - { name: a, kind: mysql, url: 'redis://u@h/d' }",
      /\.url: holds no address: it does not begin with mysql:/,
    ],
    [
      "  - { name: a, kind: mysql, url: 'mysql://u:s3cret@h/d?ssl=prefer' }",
      /\.url: ssl=prefer is not possible here/,
    ],
    ["  - { name: a, kind: postgresql, url: 'postgresql://u:s3cret@h:x/d' }", /\.url: /],
    [
      "  - { name: a, kind: mysql, url: '${NOT_SET_AT_ALL}' }",
      /NOT_SET_AT_ALL is not set; set it, or write the address here/,
    ],
    ["  - { name: a, kind: kafka }", /targets\[0\]\.brokers: expected a list of host:port/],
    ["  - { name: a, kind: kafka, brokers: [] }", /\.brokers: expected a list of host:port/],
    ["  - { name: a, kind: kafka, brokers: [b] }", /brokers\[0\]: expected a list of host:port/],
    [
      "  - { name: a, kind: kafka, brokers: ['u:p@b:1'] }",
      /brokers\[0\]: expected a list of host:port/,
    ],
    ["  - { name: a, kind: kafka, brokers: ['b:1'], prefix: 'a b' }", /prefix: expected letters/],
    ["  - { name: a, kind: kafka, brokers: ['b:1'], mechanism: x }", /mechanism: expected PLAIN/],
    [
      "  - { name: a, kind: kafka, brokers: ['b:1'], ssl: verify-ca }",
      /ssl: expected disable, require or verify-full/,
    ],
    [
      "  - { name: a, kind: kafka, brokers: ['b:1'] }\n  - { name: b, kind: kafka, brokers: ['b:1'] }",
      /targets\[1\]\.prefix: the same topics as those of the target before/,
    ],
    [
      "  - { name: a, kind: kafka, brokers: ['b:1'], every_event: 1 }",
      /every_event: expected true or false/,
    ],
    [
      "  - { name: a, kind: sqlite, path: x, every_event: true }",
      /test.yaml:2: targets\[0\]\.every_event: only the kind kafka has an every_event/,
    ],
    ["  - { name: a, kind: mysql, database: d, user: null }", /user: expected text/],
    ["  - { name: a, kind: sqlite, path: x, on_full: drop }", /on_full: expected stop or detach/],
  ];
  for (const [text, message] of cases) {
    assert.throws(
      () => targets(text),
      (error: Error) =>
        error instanceof ConfigError && message.test(error.message) &&
        !error.message.includes("s3cret"),
      text,
    );
  }
});

Deno.test("targets: with a MySQL database no other is asked for, and it is named", async () => {
  const config = parseConfig(
    "targets: [{ name: shop, kind: mysql, host: db, database: d, user: u, password: s3cret }]",
    "test.yaml",
  );
  const root = await Deno.makeTempDir();
  const servers = await resolveServers(config, { root, env: () => undefined });
  assert.match(describeServers(servers), /, MySQL u@db:3306\/d \(config file\)$/);
  await Deno.remove(root);
});

Deno.test("targets: with a SQLite file no database is asked for, and the file is named", async () => {
  const config = parseConfig(
    "redis: { host: cache }\ntargets: [{ name: local, kind: sqlite, path: some/data.db }]",
    "test.yaml",
  );
  const root = await Deno.makeTempDir();
  const variables: Record<string, string> = { DATABASE_URL: "no address at all" };
  const servers = await resolveServers(config, { root, env: (name) => variables[name] });
  assert.equal(
    describeServers(servers),
    `Redis redis://cache:6379 (config file), SQLite ${Deno.cwd()}/some/data.db (config file)`,
  );
  await Deno.remove(root);
});
