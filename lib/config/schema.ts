/**
 * The keys of the configuration file: their types, ranges and defaults. `rules.ts` has the rules between them, `config.ts`
 * says what they mean, `load.ts` reads files, `check.ts` describes the problems.
 * @module
 */

import { z } from "zod";
import { ConfigError } from "../core/errors.ts";
import { isHost } from "./address_parts.ts";
import { parseTargetUrl } from "./database_address.ts";
import { columnKeys, NAME, NAME_EXPECTED } from "./columns.ts";
import type { Config, DeepPartial, PostgresTargetConfig } from "./config.ts";
import { rangeIn } from "./ranges.ts";
import { crossProblems, POSTGRESQL, SESSION } from "./rules.ts";
import { CLUSTER_PARTITIONS, MOST_PARTITIONS } from "./shapes.ts";
import { secret, textOrNull } from "./secrets.ts";
import { clusterKeys, sentinelKeys } from "./sentinels.ts";

/** The longest time that a timer or a server command takes, in ms: a signed 32-bit number. */
const LONGEST_MS = 2 ** 31 - 1;
const LONGEST_SECONDS = Math.floor(LONGEST_MS / 1000);
const LARGEST_DOCUMENT_BYTES = 256 * 2 ** 20;
// deno-lint-ignore no-control-regex -- it is there to find control characters
const NO_SPACE = /^[^\s\u0000-\u001f\u007f-\u009f]+$/;

function range(min: number, max: number): string {
  if (max === Infinity || max === Number.MAX_SAFE_INTEGER) return ` of at least ${min}`;
  return ` from ${min} to ${max}`;
}

function integer(min: number, max: number) {
  const error = `expected a whole number${range(min, max)}`;
  return z.int({ error }).min(min, { error }).max(max, { error });
}

function whole(initial: number, min: number, max = Number.MAX_SAFE_INTEGER) {
  return integer(min, max).default(initial);
}

function wholeOrAuto(initial: number, min: number, max: number) {
  const error = `expected a whole number${range(min, max)}, or auto`;
  return z.union([z.literal("auto"), z.int({ error }).min(min, { error }).max(max, { error })], {
    error,
  }).default(initial);
}

function number(initial: number, min: number, max = Infinity) {
  const error = `expected a number${range(min, max)}`;
  return z.number({ error }).min(min, { error }).max(max, { error }).default(initial);
}

function positive(initial: number, max: number) {
  const error = `expected a number above 0, at most ${max}`;
  return z.number({ error }).positive({ error }).max(max, { error }).default(initial);
}

function flag(initial: boolean) {
  return z.boolean({ error: "expected true or false" }).default(initial);
}

function text(expected: string, pattern: RegExp) {
  return z.string({ error: expected }).regex(pattern, { error: expected });
}

/** A whole number, or null for none. */
function optionalWhole(min: number, max: number) {
  return integer(min, max).nullable().default(null);
}

const filled = text("expected text that is not empty", /^[^\0]+$/);
const nonEmpty = (initial: string) => filled.default(initial);
const optionalText = textOrNull.default(null);

const password = secret("password");
const pathOrNull = text("expected the path of a file, or null", /^[^\0]+$/).nullable();
const optionalPath = pathOrNull.default(null);
/** A part of a Redis key; braces would change the slot of the keys made from it. */
const keyPart = (initial: string) =>
  text("expected text without spaces, control characters or braces", /^[^\s\p{Cc}{}]+$/u)
    .default(initial);
/** A URL is refused: it would be taken for a name, and its password would show in messages. */
const HOST = "expected one host: a name, an address, or the path of a socket, not a URL";
const hostName = z.string({ error: HOST }).refine(isHost, { error: HOST });
const host = hostName.default("localhost");
const indexName = text("expected text without spaces or control characters", NO_SPACE);

/** A section of the file; one that is absent or empty gets all defaults. */
function section<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.preprocess((value) => value ?? {}, mapping(shape));
}

function mapping<Shape extends z.ZodRawShape>(shape: Shape) {
  return z.strictObject(shape, { error: "expected keys with values" });
}

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

const targetName = text(NAME_EXPECTED, NAME);

/** The keys of a target that is a database on a server. */
const SERVER_KEYS = [
  ...["host", "port", "database", "user", "password"] as const,
  ...["ssl", "sslrootcert", "sslcert", "sslkey"] as const,
] as const;

/** The keys that only some kinds have. */
const KIND_KEYS = {
  postgresql: ["url", ...SERVER_KEYS],
  sqlite: ["path"],
  mysql: ["url", ...SERVER_KEYS],
  kafka: [
    "brokers",
    "prefix",
    "every_event",
    "user",
    "password",
    "mechanism",
    "ssl",
    "sslrootcert",
  ],
} as const;

const BROKERS = "expected a list of host:port";
const RANGE = `expected partitions as from-to, such as 0-31, or one number, 0 to ${
  MOST_PARTITIONS - 1
}`;

/** Kept as text: what was checked can be checked again. */
const partitionRange = z.preprocess(
  (value) => Number.isInteger(value) ? String(value) : value,
  z.string({ error: RANGE }).refine((text) => (rangeIn(text)?.last ?? Infinity) < MOST_PARTITIONS, {
    error: RANGE,
  }),
);

/** What a target of the kind `postgresql` has of its own. */
type OwnDatabase = Partial<Pick<PostgresTargetConfig, typeof SERVER_KEYS[number]>>;

const target = mapping({
  name: targetName,
  kind: z.enum(["postgresql", "sqlite", "mysql", "kafka"], {
    error: "expected postgresql, sqlite, mysql or kafka",
  }),
  on_full: z.enum(["stop", "detach"], { error: "expected stop or detach" }).default("stop"),
  partitions: partitionRange.optional(),
  path: text("expected the path of a file", /^(?!file:|:memory:)[^\0]+$/).optional(),
  url: secret("address").optional(),
  host: hostName.optional(),
  port: integer(1, 65535).optional(),
  database: filled.optional(),
  user: filled.nullable().optional(),
  password: password.optional(),
  ssl: z.enum(["disable", "require", "verify-ca", "verify-full"], {
    error: "expected disable, require, verify-ca or verify-full",
  }).optional(),
  sslrootcert: pathOrNull.optional(),
  sslcert: pathOrNull.optional(),
  sslkey: pathOrNull.optional(),
  brokers: z.array(text(BROKERS, /^(\[[\da-fA-F:.]+\]|[^\s:/@]+):\d{1,5}$/), { error: BROKERS })
    .min(1, { error: BROKERS }).optional(),
  prefix: text("expected letters, digits, dots, _ and -, at most 100", /^[\w.-]{0,100}$/)
    .optional(),
  every_event: z.boolean({ error: "expected true or false" }).optional(),
  mechanism: z.enum(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], {
    error: "expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
  }).optional(),
}).transform((given, context) => {
  const { name, kind, on_full, partitions, url, ...fields } = given;
  const problem = (key: string, message: string) => {
    context.addIssue({ code: "custom", path: [key], message });
    return z.NEVER;
  };
  const allowed: readonly string[] = KIND_KEYS[kind];
  const foreign = Object.entries({ url, ...fields }).find(([key, value]) =>
    value !== undefined && !allowed.includes(key)
  );
  if (foreign) {
    const [key] = foreign;
    const kinds = Object.entries(KIND_KEYS)
      .filter(([, keys]) => (keys as readonly string[]).includes(key)).map(([of]) => of);
    return problem(
      key,
      `only the kind${kinds.length > 1 ? "s" : ""} ${kinds.join(" and ")} ${
        kinds.length > 1 ? "have" : "has"
      } ${/^[aeio]/.test(key) ? "an" : "a"} ${key}`,
    );
  }
  const common = { name, on_full, ...partitions === undefined ? {} : { partitions } };
  if (fields.user === null && kind !== "kafka") {
    return problem("user", "expected text that is not empty");
  }
  let own = fields;
  if (typeof url === "string" && (kind === "postgresql" || kind === "mysql")) {
    const beside = SERVER_KEYS.find((key) => fields[key] !== undefined);
    if (beside) return problem(beside, `it is in the url; leave out the one or the other`);
    try {
      own = { ...fields, ...parseTargetUrl("url", url, kind) };
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      return problem("url", error.message.replace(/^url:? /, ""));
    }
  }
  switch (kind) {
    case "postgresql": {
      const set = Object.entries(own).filter(([, value]) => value !== undefined);
      return { ...common, kind, ...Object.fromEntries(set) as OwnDatabase };
    }
    case "sqlite": {
      const { path } = own;
      return path === undefined
        ? problem("path", "expected the path of a file")
        : { ...common, kind, path };
    }
    case "mysql": {
      const { host = "localhost", port = 3306, database, user, password = null } = own;
      const { ssl = "disable" as const, sslrootcert = null, sslcert = null, sslkey = null } = own;
      if (database === undefined) return problem("database", "expected the name of a database");
      if (user == null) return problem("user", "expected the name of a user");
      const tls = { ssl, sslrootcert, sslcert, sslkey };
      return { ...common, kind, host, port, database, user, password, ...tls };
    }
    case "kafka": {
      const { brokers, prefix = "", every_event = false, user = null, password = null } = own;
      const { mechanism = "SCRAM-SHA-512" as const, ssl = "disable", sslrootcert = null } = own;
      if (brokers === undefined) return problem("brokers", BROKERS);
      if (ssl === "verify-ca") return problem("ssl", "expected disable, require or verify-full");
      const login = { user, password, mechanism, ssl, sslrootcert };
      return { ...common, kind, brokers, prefix, every_event, ...login };
    }
  }
});

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
  targets: z.array(target, { error: "expected a list of targets" })
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
const _complete = (config: Config): DeepReadonly<z.output<typeof file>> => config;
