import assert from "node:assert/strict";
import { configWith, entityConfig, loadConfig, parseConfig } from "writebehind";
import { linesOf, ORIGINAL, plain } from "./texts.ts";

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
      sslrootcert: null,
      sslcert: null,
      sslkey: null,
      options: null,
      application_name: "writebehind",
      schema: null,
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
    {
      name: "session",
      table: "sessions",
      index_name: "idx:sessions",
      columns: [],
      cache: { enabled: false, keep_seconds: 86_400, source: null },
    },
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
    write_behind: { ...Object(original.write_behind), batch_size: null, interval_seconds: 0 },
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
      warn_lag_seconds: 60,
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
