import assert from "node:assert/strict";
import { loadConfig, parseConfig } from "writebehind";
import { problems } from "./texts.ts";

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
    "f:1: streams.log_streams.redis_fail: the key stream:session is used by entity session; choose another",
  ],
  ...Object.fromEntries(
    Object.entries({
      "metrics:redis_success": "the counter redis_success",
      "metrics:sink:stream:session": "the gauges of sinks",
      "stream:settings:order": "the settings of streams",
      "stream:session:mend": "entity session",
      "stream:lastid:stream:order": "streams.last_id_key_prefix",
      "request:x": "the receipts of requests",
      "log:redis:success": "streams.log_streams.redis_success",
    }).map(([key, of]) => [`log that is ${key}`, [
      `streams:\n  log_streams:\n    redis_fail: ${key}`,
      `f:3: streams.log_streams.redis_fail: the key ${key} is used by ${of}; choose another`,
    ]]),
  ),
  "log among the documents": [
    "streams:\n  log_streams:\n    redis_fail: session:log",
    "f:3: streams.log_streams.redis_fail: documents of session have keys like it; choose another",
  ],
  "copies of offsets that are gauges": [
    "streams:\n  last_id_key_prefix: metrics:sink",
    "f:2: streams.last_id_key_prefix: keys that begin with metrics:sink:stream: are used by the gauges of sinks; choose another",
  ],
  "a stream that is a counter": [
    "streams:\n  prefix: metrics\nentities: [{ name: redis_success, table: t, index_name: i }]",
    "f:2: streams.prefix: the key metrics:redis_success is used by the counter redis_success; choose another",
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
