/**
 * The keys of the configuration file: their types, ranges and defaults. `values.ts` has the kinds of values, `target_keys.ts`
 * the keys of targets, `rules.ts` the rules between keys; `config.ts` says what they mean, `load.ts` reads files, `check.ts`
 * describes the problems.
 * @module
 */

import { z } from "zod";
import { columnKeys, NAME, NAME_EXPECTED } from "./columns.ts";
import type { Config, DeepPartial } from "./config.ts";
import { crossProblems, POSTGRESQL, SESSION } from "./rules.ts";
import { clusterKeys, sentinelKeys } from "./sentinels.ts";
import { CLUSTER_PARTITIONS, MOST_PARTITIONS } from "./shapes.ts";
import { targetKeys } from "./target_keys.ts";
import {
  flag,
  host,
  indexName,
  keyPart,
  LONGEST_MS,
  LONGEST_SECONDS,
  mapping,
  nonEmpty,
  number,
  optionalPath,
  optionalText,
  optionalWhole,
  password,
  positive,
  section,
  text,
  whole,
  wholeOrAuto,
} from "./values.ts";

const LARGEST_DOCUMENT_BYTES = 256 * 2 ** 20;

const entity = mapping({
  name: text(NAME_EXPECTED, NAME),
  table: text(
    "expected a name that matches [a-z][a-z0-9_]{0,40} and does not start with writebehind_",
    /^(?!writebehind_)[a-z][a-z0-9_]{0,40}$/,
  ),
  index_name: indexName,
  columns: z.preprocess(
    (value) => value ?? [],
    z.array(columnKeys, { error: "expected a list of columns" }),
  ),
  cache: section({
    enabled: flag(false),
    // Less than what a look at the target takes would make each read a miss.
    keep_seconds: whole(86_400, 2, LONGEST_SECONDS),
    source: text("expected the name of a target", NAME).nullable().default(null),
  }),
});

const NO_CACHE = { enabled: false, keep_seconds: 86_400, source: null };

const FIELD_TYPES = ["TEXT", "TAG", "NUMERIC", "GEO"] as const;

const searchField = mapping({
  name: indexName,
  type: z.enum(FIELD_TYPES, { error: "expected TEXT, TAG, NUMERIC or GEO" }),
  path: text("expected a JSONPath that starts with $", /^\$/).optional(),
  sortable: flag(false),
}).transform((field) => ({ ...field, path: field.path ?? `$.${field.name}` }));

const sections = mapping({
  postgresql: section({
    host,
    port: whole(5432, 1, 65535),
    database: nonEmpty("redisdemo"),
    user: nonEmpty("redis"),
    password: password.default(null),
    ssl: z.union([z.boolean(), z.enum(["disable", "require", "verify-ca", "verify-full"])], {
      error: "expected true, false, require, verify-ca or verify-full",
    }).default(false),
    sslrootcert: optionalPath,
    sslcert: optionalPath,
    sslkey: optionalPath,
    options: optionalText,
    application_name: nonEmpty("writebehind"),
    schema: optionalText,
  }),
  redis: section({
    host,
    port: whole(6379, 1, 65535),
    db: whole(0, 0),
    username: optionalText,
    password: password.default(null),
    tls: flag(false),
    tls_ca_file: optionalPath,
    tls_cert_file: optionalPath,
    tls_key_file: optionalPath,
    max_in_flight: whole(1000, 1),
    command_timeout_ms: whole(5000, 1, LONGEST_MS),
    ...sentinelKeys,
    ...clusterKeys,
  }),
  entities: z.array(entity, { error: "expected a list of entities" })
    .min(1, { error: "expected at least one entity" }).nullish(),
  targets: z.array(targetKeys, { error: "expected a list of targets" })
    .min(1, { error: "expected at least one target" }).nullish(),
  zero_data_loss: section({
    enabled: flag(false),
    wait_for_replicas: flag(false),
    replicas: whole(1, 1),
    wait_timeout_ms: whole(2000, 1, LONGEST_MS),
    wait_for_aof_rewrite: flag(false),
    aof_rewrite_timeout_secs: positive(5, LONGEST_SECONDS),
  }),
  streams: section({
    prefix: keyPart("stream"),
    partitions: wholeOrAuto(1, 1, MOST_PARTITIONS),
    max_events: whole(10_000_000, 1),
    max_bytes: whole(2 * 2 ** 30, 1),
    keep_seconds: number(0, 0, LONGEST_SECONDS),
    log_streams: section({
      redis_success: keyPart("log:redis:success"),
      redis_fail: keyPart("log:redis:fail"),
      redis_retry: keyPart("log:redis:retry"),
      postgres_success: keyPart("log:postgres:success"),
      postgres_fail: keyPart("log:postgres:fail"),
    }),
    log_max_entries: whole(1000, 1),
    last_id_key_prefix: keyPart("stream:lastid"),
  }),
  documents: section({
    max_bytes: whole(8 * 2 ** 20, 1, LARGEST_DOCUMENT_BYTES),
    request_id_ttl_seconds: whole(600, 1, LONGEST_SECONDS),
  }),
  dummy_data: section({
    num_records: whole(5, 0),
    create_pct: number(0.6, 0, 1),
    update_pct: number(0.3, 0, 1),
    delete_pct: number(0.1, 0, 1),
    perform_write_behind: section({ insert: flag(true), update: flag(true), delete: flag(true) }),
    rate: number(0, 0),
    duration_seconds: number(0, 0, LONGEST_SECONDS),
    concurrency: whole(16, 1),
    seed: whole(1, Number.MIN_SAFE_INTEGER),
  }),
  write_behind: section({
    batch_size: optionalWhole(1, 100_000),
    batch_bytes: whole(32 * 2 ** 20, 1),
    connections: whole(4, 1, 256),
    max_retry_attempts: whole(3, 1),
    interval_seconds: number(0, 0, LONGEST_SECONDS),
    retry_base_ms: whole(50, 1, LONGEST_MS),
    retry_max_ms: whole(5000, 1, LONGEST_MS),
    lease_seconds: positive(8, LONGEST_SECONDS),
    warn_lag_seconds: positive(60, LONGEST_SECONDS),
  }),
  search_index: section({
    create_index: flag(true),
    index_name: indexName.default("idx:sessions"),
    fields: z.preprocess(
      (value) => value ?? undefined,
      z.array(searchField, { error: "expected a list of fields" })
        .min(1, { error: "expected at least one field" })
        .prefault([
          { name: "user_id", type: "TEXT" },
          { name: "device_type", type: "TAG" },
          { name: "device_model", type: "TAG" },
        ]),
    ),
  }),
  metrics: section({
    sample_interval_ms: whole(500, 1, LONGEST_MS),
    max_samples: whole(600, 1),
    flush_interval_ms: whole(1000, 1, LONGEST_MS),
  }),
});

/**
 * The keys, and the rules between them. The rules are checked even where single keys are bad, so that one
 * report holds everything; so any part of the value may be missing when they read it.
 */
const file = z.preprocess(
  withClusterDefaults,
  sections.superRefine((value, context) => {
    for (const { path, message } of crossProblems(value as DeepPartial<Config>)) {
      context.addIssue({ code: "custom", path: [...path], message });
    }
  }, { when: ({ value }) => typeof value === "object" }),
).transform((value) => ({
  ...value,
  entities: value.entities ?? [
    { ...SESSION, index_name: value.search_index.index_name, columns: [], cache: NO_CACHE },
  ],
  targets: value.targets ?? [POSTGRESQL],
}));

function withClusterDefaults(value: unknown): unknown {
  const given = value ?? {};
  const { redis, streams = {} } = given as DeepPartial<Config>;
  const known = typeof streams !== "object" || Array.isArray(streams) ||
    streams?.partitions !== undefined;
  if (known || !Array.isArray(Object(redis).cluster)) return given;
  return { ...given, streams: { ...streams, partitions: CLUSTER_PARTITIONS } };
}

/** The whole file; parsing it gives a complete {@linkcode Config}. */
export const configSchema: z.ZodType<Config> = file;

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;
/** Does not compile where the schema has a key that {@linkcode Config} lacks. */
void ((config: Config): DeepReadonly<z.output<typeof file>> => config);
