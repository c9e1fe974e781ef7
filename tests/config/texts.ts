/** The original's file, and what the tests of the configuration ask of a text. */

import assert from "node:assert/strict";
import { type Config, ConfigError, parseConfig } from "writebehind";

/** The configuration file of the Python project that this one rebuilds, as its README gives it. */
export const ORIGINAL = `postgresql:
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
export function problems(text: string): string[] {
  return linesOf(() => parseConfig(text, "f"));
}

export function linesOf(call: () => unknown): string[] {
  try {
    call();
  } catch (error) {
    assert(error instanceof ConfigError);
    return error.message.split("\n");
  }
  assert.fail("no error");
}

/** The config as its text would give it, passwords included. */
export function plain(config: Config): Record<string, unknown> {
  const { postgresql, redis, ...rest } = config;
  return structuredClone({
    ...rest,
    postgresql: { ...postgresql, password: postgresql.password },
    redis: { ...redis, password: redis.password },
  });
}
