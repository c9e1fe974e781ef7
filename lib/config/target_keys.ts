/**
 * The keys of a target: which of them its kind has, and their defaults.
 * @module
 */

import { z } from "zod";
import { ConfigError } from "../core/errors.ts";
import { NAME, NAME_EXPECTED } from "./columns.ts";
import type { PostgresTargetConfig } from "./config.ts";
import { parseTargetUrl } from "./database_address.ts";
import { rangeIn } from "./ranges.ts";
import { secret } from "./secrets.ts";
import { MOST_PARTITIONS } from "./shapes.ts";
import { filled, hostName, integer, mapping, password, pathOrNull, text } from "./values.ts";

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

/** A target as the file gives it. */
export const targetKeys = mapping({
  name: text(NAME_EXPECTED, NAME),
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
