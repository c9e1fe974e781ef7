import fc from "fast-check";
import assert from "node:assert/strict";
import { format } from "node:util";
import {
  type Config,
  ConfigError,
  configWith,
  entityConfig,
  loadConfig,
  parseConfig,
} from "writebehind";
import { stringify } from "yaml";

/** The configuration file of the Python project that this one rebuilds, as its README gives it. */
const ORIGINAL = `postgresql:
  host: "localhost"
  port: 5432
  database: "redisdemo"
  user: "redis"
  password: "redis"

redis:
  host: "localhost"
  port: 6379
  db: 0
  password: null

zero_data_loss:
  enabled: true
  wait_for_replicas: true
  replicas: 1
  wait_timeout_ms: 2000
  wait_for_aof_rewrite: false   # best-effort simulation using BGREWRITEAOF

streams:
  prefix: "stream"
  log_streams:
    redis_success: "log:redis:success"
    redis_fail: "log:redis:fail"
    redis_retry: "log:redis:retry"
    postgres_success: "log:postgres:success"
    postgres_fail: "log:postgres:fail"
  last_id_key_prefix: "stream:lastid"  # used to store last processed id per stream

dummy_data:
  num_records: 5
  create_pct: 0.6
  update_pct: 0.3
  delete_pct: 0.1
  perform_write_behind:
    insert: true
    update: true
    delete: false

write_behind:
  batch_size: 5
  max_retry_attempts: 3
  interval_seconds: 10

search_index:
  create_index: true
  index_name: "idx:sessions"

  fields:
    - { name: "user_id", type: "TEXT" }
    - { name: "device_type", type: "TAG" }
    - { name: "device_model", type: "TAG" }
`;

/** The lines of the error that the text gives, in file `f`. */
function problems(text: string): string[] {
  return linesOf(() => parseConfig(text, "f"));
}

function linesOf(call: () => unknown): string[] {
  try {
    call();
  } catch (error) {
    assert(error instanceof ConfigError);
    return error.message.split("\n");
  }
  assert.fail("no error");
}

/** The config as its text would give it, passwords included. */
function plain(config: Config): Record<string, unknown> {
  const { postgresql, redis, ...rest } = config;
  return structuredClone({
    ...rest,
    postgresql: { ...postgresql, password: postgresql.password },
    redis: { ...redis, password: redis.password },
  });
}

/** Every path of keys in a value; items of lists by their index. */
function* paths(value: unknown, path: (string | number)[] = []): Generator<(string | number)[]> {
  if (typeof value !== "object" || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    const at = [...path, Array.isArray(value) ? Number(key) : key];
    if (!Array.isArray(value)) yield at;
    yield* paths(inner, at);
  }
}

/** The value with another name for the key at the path. */
function rename(value: unknown, [first, ...rest]: (string | number)[], name: string): unknown {
  const entries = Object.entries(Object(value)).map(([key, inner]) => {
    if (key !== String(first)) return [key, inner];
    return rest.length === 0 ? [name, inner] : [key, rename(inner, rest, name)];
  });
  return Array.isArray(value) ? entries.map(([, inner]) => inner) : Object.fromEntries(entries);
}

function keyPath(path: readonly (string | number)[]): string {
  return path.map((part) => typeof part === "number" ? `[${part}]` : `.${part}`).join("").slice(1);
}

Deno.test("config: the original's file loads unchanged", () => {
  const config = parseConfig(ORIGINAL, "original.yaml");
  assert.deepEqual(
    { ...config.postgresql, password: config.postgresql.password },
    {
      host: "localhost",
      port: 5432,
      database: "redisdemo",
      user: "redis",
      password: "redis",
      ssl: false,
    },
  );
  assert.equal(config.redis.password, null);
  assert.deepEqual(config.zero_data_loss, {
    enabled: true,
    wait_for_replicas: true,
    replicas: 1,
    wait_timeout_ms: 2000,
    wait_for_aof_rewrite: false,
    aof_rewrite_timeout_secs: 5,
  });
  assert.equal(config.streams.last_id_key_prefix, "stream:lastid");
  assert.deepEqual(config.dummy_data.perform_write_behind, {
    insert: true,
    update: true,
    delete: false,
  });
  assert.equal(config.dummy_data.num_records, 5);
  assert.equal(config.write_behind.batch_size, 5);
  assert.equal(config.write_behind.interval_seconds, 10);
  assert.deepEqual(
    config.search_index.fields.map(({ name, type, path }) => [name, type, path]),
    [
      ["user_id", "TEXT", "$.user_id"],
      ["device_type", "TAG", "$.device_type"],
      ["device_model", "TAG", "$.device_model"],
    ],
  );
  assert.deepEqual(config.entities, [
    { name: "session", table: "sessions", index_name: "idx:sessions" },
  ]);
  const withTimeout = ORIGINAL.replace(
    "wait_timeout_ms",
    "aof_rewrite_timeout_secs: 2.5\n  wait_timeout_ms",
  );
  assert.equal(parseConfig(withTimeout, "f").zero_data_loss.aof_rewrite_timeout_secs, 2.5);
});

Deno.test("config: the project's own file is found from any working directory", async () => {
  const config = await loadConfig();
  assert.deepEqual(config.dummy_data.perform_write_behind, {
    insert: true,
    update: true,
    delete: true,
  });
  assert.equal(config.zero_data_loss.enabled, false);
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      `await (await import("${new URL(
        "../../lib/config/load.ts",
        import.meta.url,
      )}")).loadConfig()`,
    ],
    cwd: new URL("../", import.meta.url),
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
});

Deno.test("config: a file or a section with nothing in it is all defaults", () => {
  const config = parseConfig("", "f");
  const original = plain(parseConfig(ORIGINAL, "f"));
  assert.deepEqual(plain(config), {
    ...original,
    postgresql: { ...Object(original.postgresql), password: null },
    zero_data_loss: {
      ...Object(original.zero_data_loss),
      enabled: false,
      wait_for_replicas: false,
    },
    dummy_data: {
      ...Object(original.dummy_data),
      perform_write_behind: { insert: true, update: true, delete: true },
    },
    write_behind: { ...Object(original.write_behind), batch_size: 1000, interval_seconds: 0 },
  });
  assert.partialDeepStrictEqual(config, {
    redis: { username: null, tls: false, max_in_flight: 1000, command_timeout_ms: 5000 },
    streams: { partitions: 1, max_events: 10_000_000, max_bytes: 2 ** 31, log_max_entries: 1000 },
    documents: { max_bytes: 8388608, request_id_ttl_seconds: 600 },
    dummy_data: { rate: 0, duration_seconds: 0, concurrency: 16, seed: 1 },
    write_behind: {
      batch_bytes: 33554432,
      retry_base_ms: 50,
      retry_max_ms: 5000,
      lease_seconds: 8,
    },
    metrics: { sample_interval_ms: 500, max_samples: 600, flush_interval_ms: 1000 },
  });
  const empty = "dummy_data:\nentities:\nstreams:\n  log_streams:\nsearch_index:\n  fields:\n";
  assert.deepEqual(plain(parseConfig(empty, "f")), plain(config));
  assert.equal(
    entityConfig(parseConfig("search_index: { index_name: other }", "f"), "session").index_name,
    "other",
  );
});

const MISTAKES: Record<string, [yaml: string, ...problems: string[]]> = {
  "unknown key": [
    "write_behind:\n  batch_sise: 1",
    "f:2: write_behind.batch_sise: unknown key; did you mean batch_size?",
  ],
  "unknown section": ["\nposgresql:\n", "f:2: posgresql: unknown key; did you mean postgresql?"],
  "key in the wrong place": [
    "batch_size: 1",
    "f:1: batch_size: unknown key; did you mean write_behind.batch_size?",
  ],
  "key like no other": ["redis:\n  colour: 1", "f:2: redis.colour: unknown key"],
  "inherited name": ["redis:\n  __proto__: 1", "f:2: redis.__proto__: unknown key"],
  "key in a list": [
    "search_index:\n  fields:\n    - { name: a, type: TAG }\n    - { name: b, type: TAG, sortabel: true }",
    "f:4: search_index.fields[1].sortabel: unknown key; did you mean sortable?",
  ],
  "key in a later item": [
    "entities:\n  - { name: a, table: t, index_name: i }\n  - { name: b, tabel: u, table: u, index_name: j }",
    "f:3: entities[1].tabel: unknown key; did you mean table?",
  ],
  "repeated key": [
    "redis:\n  port: 1\n  port: 2",
    "f:3: redis.port: stands already in line 2; keep one",
  ],
  "too small": [
    "write_behind:\n  batch_size: 0",
    "f:2: write_behind.batch_size: expected a whole number from 1 to 100000, got 0",
  ],
  "no limit above": [
    "redis: { max_in_flight: 0 }",
    "f:1: redis.max_in_flight: expected a whole number of at least 1, got 0",
  ],
  "not whole": [
    "redis:\n  port: 1.5",
    "f:2: redis.port: expected a whole number from 1 to 65535, got 1.5",
  ],
  "not a number": [
    "redis:\n  port: .nan",
    "f:2: redis.port: expected a whole number from 1 to 65535, got NaN",
  ],
  "no value": [
    "redis:\n  port:",
    "f:2: redis.port: expected a whole number from 1 to 65535, got null",
  ],
  "wait for ever": [
    "zero_data_loss: { wait_timeout_ms: 0 }",
    "f:1: zero_data_loss.wait_timeout_ms: expected a whole number from 1 to 2147483647, got 0",
  ],
  "zero seconds": [
    "zero_data_loss: { aof_rewrite_timeout_secs: 0 }",
    "f:1: zero_data_loss.aof_rewrite_timeout_secs: expected a number above 0, at most 2147483, got 0",
  ],
  "YAML 1.2 booleans": ["redis: { tls: yes }", 'f:1: redis.tls: expected true or false, got "yes"'],
  "number for text": [
    "redis: { username: 12 }",
    "f:1: redis.username: expected text or null, got 12; quote it",
  ],
  "section that is text": ["redis: localhost", "f:1: redis: expected keys with values, got text"],
  "file that is a list": ["- redis", "f:1: the file: expected keys with values, got a list"],
  "type in lower case": [
    "search_index: { fields: [{ name: a, type: text }] }",
    'f:1: search_index.fields[0].type: expected TEXT, TAG, NUMERIC or GEO, got "text"',
  ],
  "missing key": [
    "search_index: { fields: [{ type: TAG }] }",
    "f:1: search_index.fields[0].name: expected text without spaces or control characters, got nothing",
  ],
  "no fields": [
    "search_index: { fields: [] }",
    "f:1: search_index.fields: expected at least one field, got an empty list",
  ],
  "field twice": [
    "search_index: { fields: [{ name: a, type: TAG }, { name: a, type: TEXT }] }",
    'f:1: search_index.fields[1].name: "a" is used twice; choose another',
  ],
  "path": [
    "search_index: { fields: [{ name: a, type: TAG, path: .a }] }",
    'f:1: search_index.fields[0].path: expected a JSONPath that starts with $, got ".a"',
  ],
  "shares": [
    "\ndummy_data: { create_pct: 0.5 }",
    "f:2: dummy_data: create_pct, update_pct and delete_pct must sum to 1, got 0.5 + 0.3 + 0.1",
  ],
  "search outside database 0": [
    "redis:\n  db: 1",
    "f:2: redis.db: RediSearch lives in database 0; set db to 0, or search_index.create_index to false",
  ],
  "retry pauses": [
    "write_behind:\n  retry_base_ms: 9000",
    "f:2: write_behind.retry_base_ms: expected at most retry_max_ms (5000), got 9000",
  ],
  "entity name": [
    "entities: [{ name: Session, table: s, index_name: i }]",
    'f:1: entities[0].name: expected a name that matches [a-z][a-z0-9_]{0,40}, got "Session"',
  ],
  "reserved table": [
    "entities: [{ name: a, table: writebehind_offset, index_name: i }]",
    'f:1: entities[0].table: expected a name that matches [a-z][a-z0-9_]{0,40} and does not start with writebehind_, got "writebehind_offset"',
  ],
  "index with a space": [
    "search_index: { index_name: a b }",
    'f:1: search_index.index_name: expected text without spaces or control characters, got "a b"',
  ],
  "no entities": ["entities: []", "f:1: entities: expected at least one entity, got an empty list"],
  "entities alike": [
    "entities:\n  - { name: a, table: t, index_name: i }\n  - { name: a, table: t, index_name: i }",
    'f:3: entities[1].name: "a" is used twice; choose another',
    'f:3: entities[1].table: "t" is used twice; choose another',
    'f:3: entities[1].index_name: "i" is used twice; choose another',
  ],
  "name of another prefix": [
    "streams: { prefix: order }\nentities: [{ name: order, table: orders, index_name: i }]",
    "f:2: entities[0].name: the name order is used by streams.prefix; choose another",
  ],
  "log that is a stream": [
    "streams: { log_streams: { redis_fail: 'stream:session' } }",
    "f:1: streams.log_streams.redis_fail: this stream is already that of entity session",
  ],
  "braces in a key": [
    "streams: { prefix: '{s}' }",
    'f:1: streams.prefix: expected text without spaces, control characters or braces, got "{s}"',
  ],
  "two documents": [
    "redis:\n---\nredis:\n",
    "f:2: YAML: a second document (---) begins here; keep one",
    "(what follows is checked when the YAML is mended)",
  ],
  "tab": [
    "redis:\n\tport: 1",
    "f:2: YAML: indented by a tab; use spaces",
    "(what follows is checked when the YAML is mended)",
  ],
  "open quote": [
    "redis:\n  host: 'a\n  port: 1\n",
    "f:2: YAML: a quote that opens here is not closed",
    "(what follows is checked when the YAML is mended)",
  ],
  "alias without anchor": [
    "redis: { host: *a }",
    "f:1: YAML: an alias without an anchor above it; put text that starts with * in quotes",
    "(what follows is checked when the YAML is mended)",
  ],
  "depth": [
    "redis: " + "[".repeat(5000) + "]".repeat(5000),
    "f:1: YAML: nested too deeply",
    "(what follows is checked when the YAML is mended)",
  ],
};

for (const [name, [yaml, ...expected]] of Object.entries(MISTAKES)) {
  Deno.test(`config: mistake: ${name}`, () => assert.deepEqual(problems(yaml), expected));
}

Deno.test("config: reserved entity names are refused", () => {
  for (const name of ["stream", "log", "metrics", "request", "writebehind"]) {
    const [line] = problems(`entities: [{ name: ${name}, table: t, index_name: i }]`);
    assert.match(
      line ?? "",
      /^f:1: entities\[0\]\.name: the name \w+ is used by .*; choose another$/,
    );
  }
});

Deno.test("config: aliases work, a flood of them is refused", () => {
  assert.equal(parseConfig("redis: &r { port: 1 }\npostgresql: *r", "f").postgresql.port, 1);
  const levels = Array.from(
    { length: 30 },
    (_, i) => `l${i}: &l${i} [${i ? `*l${i - 1},*l${i - 1}` : "x"}]`,
  );
  assert.match(problems(levels.join("\n")).join(), /aliases that unfold to too much/);
});

Deno.test("config: one error holds every mistake, in the order of the lines", () => {
  const text = "redis:\n  db: 2\n  prot: 1\n  password: 5\n  tls: on\n" +
    "dummy_data:\n  create_pct: 1\n  rate: -1\nnope:\nredis:\n  db: 2\nstreams:\n  partitions: 257\n\tx: 1";
  assert.deepEqual(problems(text).map((line) => line.split(": ").slice(0, 2).join(" ")), [
    "f:6 dummy_data",
    "f:8 dummy_data.rate",
    "f:9 nope",
    "f:10 redis",
    "f:11 redis.db",
    "f:11 redis.db",
    "f:13 streams.partitions",
    "f:14 YAML",
    "(what follows is checked when the YAML is mended)",
  ]);
  assert.deepEqual(problems(text.split("nope")[0] ?? "").map((line) => line.split(": ")[1]), [
    "redis.db",
    "redis.prot",
    "redis.password",
    "redis.tls",
    "dummy_data",
    "dummy_data.rate",
  ]);
});

Deno.test("config: a password shows in no message", () => {
  const secret = "hunter2";
  for (
    const text of [
      `redis: ${secret}`,
      `redis: { passwrod: ${secret} }`,
      `redis: { host: x, password:${secret} }`,
      `redis: { host: "redis://u:${secret}@h" }`,
      `password: ${secret}`,
      ...[
        `[${secret}]`,
        `{ ${secret}: 1 }`,
        `*${secret}`,
        `!${secret} a`,
        `|${secret}`,
        `"a" ${secret}`,
        `@${secret}`,
        `a: ${secret}`,
        `'${secret}`,
        `"\\q${secret}`,
        `\n  ${secret}`,
        `x\n  password:${secret}`,
        `x\n  ? [${secret}]\n  : 1`,
      ].map((value) => `redis:\n  password: ${value}\n`),
    ]
  ) {
    const message = problems(text).join("\n");
    assert(!message.includes(secret), message);
  }
  for (const value of ["12345", "true", "0x12345", "1e5"]) {
    assert.match(
      problems(`redis:\n  password: ${value}`).join("\n"),
      /^f:2: redis\.password: expected text or null, got a (number|boolean); quote it$/,
    );
  }
});

Deno.test("config: a password shows in no display", () => {
  const config = parseConfig(
    "redis: { password: hunter2 }\npostgresql: { password: hunter2 }",
    "f",
  );
  assert.equal(config.redis.password, "hunter2");
  assert.equal(config.postgresql.password, "hunter2");
  for (const value of [config, config.redis, config.postgresql, [config.redis], { config }]) {
    for (
      const shown of [
        Deno.inspect(value),
        Deno.inspect(value, { showHidden: true, depth: 9, colors: true }),
        JSON.stringify(value),
        String(value),
        format("%o %O %j %s", value, value, value, value),
      ]
    ) assert(!shown.includes("hunter2"), shown);
  }
  for (const copy of [{ ...config.redis }, structuredClone(config), Object.entries(config.redis)]) {
    assert(!Deno.inspect(copy, { depth: 9, showHidden: true }).includes("hunter2"));
  }
  assert.match(Deno.inspect(config.redis), /password: "\[redacted\]"/);
  assert.equal(JSON.parse(JSON.stringify(config)).redis.password, "[redacted]");
  assert.match(Deno.inspect(parseConfig("", "f").redis), /password: null/);
});

Deno.test("config: frozen at every level", () => {
  const frozen = (value: unknown): boolean =>
    Object(value) !== value ||
    (Object.isFrozen(value) && Object.values(Object(value)).every(frozen));
  assert(frozen(parseConfig(ORIGINAL, "f")));
  assert(frozen(configWith(parseConfig("", "f"), { redis: { port: 1 } })));
});

Deno.test("config: configWith changes some keys, keeps the rest and checks again", () => {
  const config = parseConfig("redis: { password: hunter2 }\nwrite_behind: { batch_size: 7 }", "f");
  const changed = configWith(config, {
    redis: { ...config.redis, port: 1 },
    write_behind: { lease_seconds: 1 },
    search_index: { index_name: "idx:other" },
  });
  assert.equal(changed.redis.port, 1);
  assert.equal(changed.redis.password, "hunter2");
  assert.equal(changed.write_behind.batch_size, 7);
  assert.equal(changed.entities[0]?.index_name, "idx:other");
  assert.equal(config.redis.port, 6379);
  assert.deepEqual(plain(configWith(config, {})), plain(config));
  assert.deepEqual(
    linesOf(() => configWith(config, { redis: { port: 0, db: 1 } })),
    [
      "redis.port: expected a whole number from 1 to 65535, got 0",
      "redis.db: RediSearch lives in database 0; set db to 0, or search_index.create_index to false",
    ],
  );
  assert.match(linesOf(() => configWith(structuredClone(config), {})).join(), /made by loadConfig/);
});

Deno.test("config: an entity is found by its name", () => {
  const config = parseConfig(
    "entities: [{ name: a, table: t, index_name: i }, { name: b, table: u, index_name: j }]",
    "f",
  );
  assert.equal(entityConfig(config, "b").table, "u");
  assert.deepEqual(linesOf(() => entityConfig(config, "c")), [
    'no entity "c" in the configuration; its entities are: a, b',
  ]);
});

Deno.test("config: a file that cannot be read says so with its path", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeFile(`${folder}/latin1.yaml`, Uint8Array.of(0x61, 0x3a, 0xe9));
    await Deno.writeTextFile(`${folder}/large.yaml`, "#".repeat(2 ** 20 + 1));
    await Deno.writeTextFile(`${folder}/bom.yaml`, "\ufeffredis: { port: 1 }\r\n");
    for (
      const [file, what] of [
        [`${folder}/none.yaml`, `no such file (${folder}/none.yaml)`],
        [folder, "is a directory"],
        [`${folder}/latin1.yaml`, "is not UTF-8 text"],
        [`${folder}/large.yaml`, "larger than 1048576 bytes"],
      ] as const
    ) {
      await assert.rejects(loadConfig(file), {
        name: "ConfigError",
        message:
          `${file}: ${what}; give the path of a YAML file like this project's config/config.yaml`,
      });
    }
    assert.equal((await loadConfig(`${folder}/bom.yaml`)).redis.port, 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("config: law: what is valid comes back from YAML as it was", () => {
  const name = fc.stringMatching(/^x[a-z0-9_]{0,10}$/); // no reserved name begins with an x
  const ms = fc.integer({ min: 1, max: 2 ** 31 - 1 });
  const text = fc.string({ unit: "binary", minLength: 1 })
    .filter((value) => !value.includes("\0") && value.isWellFormed());
  const password = fc.option(text);
  const shares = fc.tuple(fc.nat(100), fc.nat(100)).map(([a, b]) => {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    return {
      create_pct: low / 100,
      update_pct: (high - low) / 100,
      delete_pct: (100 - high) / 100,
    };
  });
  const valid = fc.record({
    postgresql: fc.record({ user: text, database: text, password, ssl: fc.boolean() }),
    redis: fc.record({ port: fc.integer({ min: 1, max: 65535 }), password, tls: fc.boolean() }),
    zero_data_loss: fc.record({
      wait_timeout_ms: ms,
      aof_rewrite_timeout_secs: fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
    }),
    entities: fc.uniqueArray(name, { minLength: 1, maxLength: 4 }).map((names) =>
      names.map((name) => ({ name, table: `${name}_table`, index_name: `idx:${name}` }))
    ),
    dummy_data: fc.tuple(shares, fc.maxSafeInteger()).map(([pct, seed]) => ({ ...pct, seed })),
    write_behind: fc.record({ batch_size: fc.integer({ min: 1, max: 100_000 }) }),
    search_index: fc.record({
      fields: fc.uniqueArray(
        fc.record({
          name,
          type: fc.constantFrom("TEXT", "TAG", "NUMERIC", "GEO"),
          path: name.map((path) => `$.${path}`),
          sortable: fc.boolean(),
        }),
        { minLength: 1, maxLength: 4, selector: (field) => field.name },
      ),
    }),
  });
  fc.assert(fc.property(valid, (input) => {
    const config = plain(parseConfig(stringify(input), "f"));
    assert.partialDeepStrictEqual(config, structuredClone(input));
    assert.deepEqual(plain(parseConfig(stringify(config), "f")), config);
  }));
});

Deno.test("config: law: a typo of one character is found, with its line and the true key", () => {
  const full = plain(parseConfig("", "f"));
  const edit = fc.tuple(
    fc.constantFrom("insert", "delete", "replace"),
    fc.nat(),
    fc.constantFrom(..."abcxyz_"),
  );
  fc.assert(fc.property(fc.constantFrom(...paths(full)), edit, (path, [how, where, char]) => {
    const key = String(path.at(-1));
    const position = where % key.length;
    const typo = key.slice(0, position) + (how === "delete" ? "" : char) +
      key.slice(position + (how === "insert" ? 0 : 1));
    const parent = path.slice(0, -1).reduce<unknown>((value, part) => Object(value)[part], full);
    fc.pre(typo !== "" && !Object.hasOwn(Object(parent), typo));
    const text = stringify(rename(full, path, "MARK"));
    const line = text.slice(0, text.indexOf("MARK")).split("\n").length;
    const start = `f:${line}: ${keyPath([...path.slice(0, -1), typo])}: unknown key; did you mean `;
    const found = problems(text.replace("MARK", typo)).find((problem) => problem.startsWith(start));
    assert.match(found ?? "no such problem", new RegExp(` (.* or )?${key}( or .*)?\\?$`));
  }));
});
