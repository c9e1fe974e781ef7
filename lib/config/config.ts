/**
 * What a configuration holds: the keys of the file, with their units and defaults. Their ranges and the rules
 * between them are in `schema.ts`.
 * @module
 */

/** The same keys at every level, each of them optional; a list is given whole. */
export type DeepPartial<T> = T extends object ? { readonly [K in keyof T]?: DeepPartial<T[K]> } : T;

/** A configuration: checked, complete (absent keys have their defaults) and deeply frozen. */
export interface Config {
  /** the PostgreSQL database; a target of that kind takes from here what it does not name itself */
  readonly postgresql: {
    /** a name, an address, or the folder of a Unix socket. @default {"localhost"} */
    readonly host: string;
    /** @default {5432} */
    readonly port: number;
    /** @default {"redisdemo"} */
    readonly database: string;
    /** @default {"redis"} */
    readonly user: string;
    /** readable, but not enumerable: displays show it redacted. @default {null} */
    readonly password: string | null;
    /**
     * TLS, as libpq's `sslmode` means it: `require` checks no certificate where there is no `sslrootcert`, `verify-ca`
     * does not look at its names. `true` is `verify-full`. @default {false}
     */
    readonly ssl: boolean | "disable" | "require" | "verify-ca" | "verify-full";
    /**
     * the path of a PEM file with the certificates to trust, of authorities or of the server itself; `null`: those that
     * Deno trusts (`DENO_CERT` adds to them). @default {null}
     */
    readonly sslrootcert: string | null;
    /**
     * the path of a PEM file with the certificate that is shown to a server which asks for one; it needs `sslkey`, and
     * counts with TLS only. @default {null}
     */
    readonly sslcert: string | null;
    /** the path of a PEM file with its private key, not encrypted. @default {null} */
    readonly sslkey: string | null;
    /** for the server, in libpq's form: `-c search_path=app`. @default {null} */
    readonly options: string | null;
    /** by which the server's own views show our connections. @default {"writebehind"} */
    readonly application_name: string;
    /** where the tables are; `null`: where the search path, or else the database, has them. @default {null} */
    readonly schema: string | null;
  };
  /** the Redis in front of it */
  readonly redis: {
    /** a name, an address, or the path of a Unix socket. @default {"localhost"} */
    readonly host: string;
    /** @default {6379} */
    readonly port: number;
    /** 0 where there is a search index: RediSearch lives in database 0. @default {0} */
    readonly db: number;
    /** `null` for Redis's default user. @default {null} */
    readonly username: string | null;
    /** readable, but not enumerable: displays show it redacted. @default {null} */
    readonly password: string | null;
    /** TLS, with a certificate that is checked. @default {false} */
    readonly tls: boolean;
    /** as `postgresql.sslrootcert`. @default {null} */
    readonly tls_ca_file: string | null;
    /** as `postgresql.sslcert`. @default {null} */
    readonly tls_cert_file: string | null;
    /** as `postgresql.sslkey`. @default {null} */
    readonly tls_key_file: string | null;
    /** calls that a client may have in flight. @default {1000} */
    readonly max_in_flight: number;
    /** in ms; a connection that is silent for so long is closed. @default {5000} */
    readonly command_timeout_ms: number;
    /** the sentinels that tell which server is the primary; `host` and `port` do not count then. @default {null} */
    readonly sentinels: readonly SentinelAddress[] | null;
    /** what the sentinels call the primary. @default {null} */
    readonly sentinel_name: string | null;
    /** whom the sentinels know; `null` for their default user. @default {null} */
    readonly sentinel_username: string | null;
    /** the sentinels' own, as `password` is the servers'. @default {null} */
    readonly sentinel_password: string | null;
    /** whether the sentinels speak TLS, with the files of `tls`. @default {false} */
    readonly sentinel_tls: boolean;
    /** some nodes of a Redis Cluster: they tell of the others; `host` and `port` do not count then. @default {null} */
    readonly cluster: readonly NodeAddress[] | null;
  };
  /** the document types. @default one, `session`, in the table `sessions` */
  readonly entities: readonly EntityConfig[];
  /** where events are written to. @default one, PostgreSQL, named `postgresql` */
  readonly targets: readonly TargetConfig[];
  /** what a write waits for */
  readonly zero_data_loss: {
    /** false: a write is done when Redis has it in memory. @default {false} */
    readonly enabled: boolean;
    /** a WAIT for `replicas` acknowledgements. @default {false} */
    readonly wait_for_replicas: boolean;
    /** @default {1} */
    readonly replicas: number;
    /** in ms. @default {2000} */
    readonly wait_timeout_ms: number;
    /** a WAITAOF for this Redis's disk; the original's name for it. @default {false} */
    readonly wait_for_aof_rewrite: boolean;
    /** in seconds. @default {5} */
    readonly aof_rewrite_timeout_secs: number;
  };
  /** the streams of events, and those of logs */
  readonly streams: {
    /** what the names of event streams begin with. @default {"stream"} */
    readonly prefix: string;
    /**
     * streams that an entity is split into, fixed by the first write and changed by `deno task repartition`; `auto`: as
     * Redis says. @default {1}, in a cluster 16
     */
    readonly partitions: number | "auto";
    /** events in a stream past which writes are refused. @default {10000000} */
    readonly max_events: number;
    /** bytes of a stream past which writes are refused. @default 2 GiB */
    readonly max_bytes: number;
    /**
     * how long an event stays at least once all targets hold it, in seconds: a target that has lost its last commits is
     * given them again. It takes half of the room at most, and none that writers need. @default {0}
     */
    readonly keep_seconds: number;
    /** the keys of the log streams, one a counter */
    readonly log_streams: {
      /** @default {"log:redis:success"} */
      readonly redis_success: string;
      /** @default {"log:redis:fail"} */
      readonly redis_fail: string;
      /** @default {"log:redis:retry"} */
      readonly redis_retry: string;
      /** @default {"log:postgres:success"} */
      readonly postgres_success: string;
      /** @default {"log:postgres:fail"} */
      readonly postgres_fail: string;
    };
    /** entries that each log stream keeps. @default {1000} */
    readonly log_max_entries: number;
    /** what the keys of the offset's copies begin with. @default {"stream:lastid"} */
    readonly last_id_key_prefix: string;
  };
  /** limits of documents */
  readonly documents: {
    /** bytes of a document's JSON text. @default 8 MiB */
    readonly max_bytes: number;
    /** how long a `requestId` finds its first receipt again, in seconds. @default {600} */
    readonly request_id_ttl_seconds: number;
  };
  /** the traffic of `dummyDataWorker` */
  readonly dummy_data: {
    /** calls in all. @default {5} */
    readonly num_records: number;
    /** share of the calls, 0 to 1; the three sum to 1. @default {0.6} */
    readonly create_pct: number;
    /** @default {0.3} */
    readonly update_pct: number;
    /** @default {0.1} */
    readonly delete_pct: number;
    /** false: changed in Redis, not forwarded to the target; for all documents, not only dummy ones */
    readonly perform_write_behind: {
      /** @default {true} */
      readonly insert: boolean;
      /** @default {true} */
      readonly update: boolean;
      /** @default {true} */
      readonly delete: boolean;
    };
    /** documents a second; 0 is as fast as possible. @default {0} */
    readonly rate: number;
    /** in seconds; 0 is until `num_records`. @default {0} */
    readonly duration_seconds: number;
    /** calls in flight. @default {16} */
    readonly concurrency: number;
    /** the same seed makes the same documents. @default {1} */
    readonly seed: number;
  };
  /** the sink */
  readonly write_behind: {
    /**
     * events in a partition's batch, a ceiling; `null`: up to 10,000 within `batch_bytes`, at most 20,000 for all
     * partitions of a sink, shared by its targets. @default {null}
     */
    readonly batch_size: number | null;
    /**
     * bytes of events that a sink reads at once, a ceiling, shared by its partitions and targets; it holds twice as many
     * while it applies one batch and reads the next. @default 32 MiB
     */
    readonly batch_bytes: number;
    /**
     * connections to PostgreSQL that a sink process holds for an entity's batches, shared by its partitions; other targets have
     * their own number. @default {4}
     */
    readonly connections: number;
    /** failures in a row after which a partition is called stuck; retrying goes on. @default {3} */
    readonly max_retry_attempts: number;
    /** pause between two drains, in seconds; 0 is continuous. @default {0} */
    readonly interval_seconds: number;
    /** the first pause after a failure, in ms, doubled up to `retry_max_ms`. @default {50} */
    readonly retry_base_ms: number;
    /** in ms. @default {5000} */
    readonly retry_max_ms: number;
    /** a sink that is silent for so long, in seconds, is replaced. @default {8} */
    readonly lease_seconds: number;
    /** from this lag on, in seconds, `status` warns. @default {60} */
    readonly warn_lag_seconds: number;
  };
  /** the search index */
  readonly search_index: {
    /** @default {true} */
    readonly create_index: boolean;
    /** the index of `session`, where `entities` is not given. @default {"idx:sessions"} */
    readonly index_name: string;
    /** @default `user_id` as TEXT, `device_type` and `device_model` as TAG */
    readonly fields: readonly SearchFieldConfig[];
  };
  /** counters and samples */
  readonly metrics: {
    /** in ms. @default {500} */
    readonly sample_interval_ms: number;
    /** samples kept. @default {600} */
    readonly max_samples: number;
    /** counters are gathered in memory and sent this often, in ms. @default {1000} */
    readonly flush_interval_ms: number;
  };
}

/** Where a node of a cluster listens. */
export interface NodeAddress {
  /** a name or an address */
  readonly host: string;
  /** where it listens. @default {6379} */
  readonly port: number;
}

/** Where a sentinel listens. */
export interface SentinelAddress {
  /** a name or an address */
  readonly host: string;
  /** where it listens. @default {26379} */
  readonly port: number;
}

/** One document type: its name, the table it is stored in, and its search index. */
export interface EntityConfig {
  /** matches `[a-z][a-z0-9_]{0,40}`; what the keys of its documents begin with */
  readonly name: string;
  /** matches `[a-z][a-z0-9_]{0,40}` */
  readonly table: string;
  /** the name of its RediSearch index */
  readonly index_name: string;
  /** typed columns of its table, beside the documents. @default none */
  readonly columns: readonly ColumnConfig[];
  /** whether Redis holds only what is hot, and what the target does not have yet. @default not */
  readonly cache: CacheConfig;
}

/** Redis as a cache in front of the target that holds all documents. */
export interface CacheConfig {
  /** whether documents that the target has may be evicted. @default {false} */
  readonly enabled: boolean;
  /** how long a document stays that nobody reads or writes, in seconds. @default {86400} */
  readonly keep_seconds: number;
  /** the name of the target that documents are read from again; `null`: the first. @default {null} */
  readonly source: string | null;
}

/** A typed column, generated from the documents by the database. */
export interface ColumnConfig {
  /** matches `[a-z][a-z0-9_]{0,40}` */
  readonly name: string;
  /** keys and places, such as `$.a.b[0]`. @default `$.<name>` */
  readonly path: string;
  /**
   * `text` takes a JSON string, `integer` a whole number of 64 bits, `number` a double, `decimal` a number digit by
   * digit, `boolean` true or false, `timestamp_ms` a number of ms since 1970; each is NULL where there is no value,
   * or null
   */
  readonly type: "text" | "integer" | "number" | "decimal" | "boolean" | "timestamp_ms";
  /** whether it has an index; a text has at most 512 characters then. @default {false} */
  readonly index: boolean;
  /** what becomes of a document whose value is none of the type: parked, or NULL in this column. @default {park} */
  readonly on_error: "park" | null;
}

/** What every target has. */
export interface AnyTarget {
  /** matches `[a-z][a-z0-9_]{0,40}`; what events, commands and messages call it */
  readonly name: string;
  /**
   * what happens where the streams are full of events that this target alone does not have: the writers are told to
   * stop, or it loses its place, and has to be added anew. @default {stop}
   */
  readonly on_full: "stop" | "detach";
  /**
   * the partitions that it has, such as `0-31`, or `3`. Targets that have such a range have each partition exactly once
   * among them; one without it has all
   */
  readonly partitions?: string;
}

/** A PostgreSQL database: what is not given is that of the section `postgresql`. */
export interface PostgresTargetConfig extends AnyTarget {
  /** what it is */
  readonly kind: "postgresql";
  /** a name, an address, or the folder of a socket */
  readonly host?: string;
  /** of its own */
  readonly port?: number;
  /** of its own */
  readonly database?: string;
  /** of its own */
  readonly user?: string;
  /** of its own; not enumerable */
  readonly password?: string | null;
  /** of its own, as the section's */
  readonly ssl?: "disable" | "require" | "verify-ca" | "verify-full";
  /** of its own, as the section's */
  readonly sslrootcert?: string | null;
  /** of its own, as the section's */
  readonly sslcert?: string | null;
  /** of its own, as the section's */
  readonly sslkey?: string | null;
}

/** A SQLite file. */
export interface SqliteTargetConfig extends AnyTarget {
  /** what it is */
  readonly kind: "sqlite";
  /** the file, relative to the working directory; made where it is missing */
  readonly path: string;
}

/** A database of MySQL or MariaDB. */
export interface MysqlTargetConfig extends AnyTarget {
  /** what it is */
  readonly kind: "mysql";
  /** a name, an address, or the path of a socket. @default {localhost} */
  readonly host: string;
  /** where it listens. @default {3306} */
  readonly port: number;
  /** its name */
  readonly database: string;
  /** whom the sink logs in as */
  readonly user: string;
  /** not enumerable. @default {null} */
  readonly password: string | null;
  /** as `postgresql.ssl`. @default {disable} */
  readonly ssl: "disable" | "require" | "verify-ca" | "verify-full";
  /** as `postgresql.sslrootcert`. @default {null} */
  readonly sslrootcert: string | null;
  /** as `postgresql.sslcert`. @default {null} */
  readonly sslcert: string | null;
  /** as `postgresql.sslkey`. @default {null} */
  readonly sslkey: string | null;
}

/** Topics of a Kafka cluster. */
export interface KafkaTargetConfig extends AnyTarget {
  /** what it is */
  readonly kind: "kafka";
  /** `host:port` of some of the brokers: they tell of the others */
  readonly brokers: readonly string[];
  /** what the names of its topics begin with. @default {""} */
  readonly prefix: string;
  /** whether each event is a record of its own, in order, not only the last one of a document in a batch. @default {false} */
  readonly every_event: boolean;
  /** whom the sink logs in as, by SASL; `null` for nobody. @default {null} */
  readonly user: string | null;
  /** not enumerable. @default {null} */
  readonly password: string | null;
  /** how it logs in. @default {SCRAM-SHA-512} */
  readonly mechanism: "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512";
  /** `require` looks at no certificate. @default {disable} */
  readonly ssl: "disable" | "require" | "verify-full";
  /** a file with the certificates to trust, in place of the system's. @default {null} */
  readonly sslrootcert: string | null;
}

/** A place that events are written to. */
export type TargetConfig =
  | PostgresTargetConfig
  | SqliteTargetConfig
  | MysqlTargetConfig
  | KafkaTargetConfig;

/** One indexed field of the documents. */
export interface SearchFieldConfig {
  /** its name in queries */
  readonly name: string;
  /** RediSearch's type */
  readonly type: "TEXT" | "TAG" | "NUMERIC" | "GEO";
  /** JSONPath of the value. @default `$.<name>` */
  readonly path: string;
  /** whether Redis keeps it ready for sorting, which takes memory. @default {false} */
  readonly sortable: boolean;
}
