import fc from "fast-check";
import assert from "node:assert/strict";
import {
  ConfigError,
  configWith,
  describeServers,
  parseConfig,
  serverOverrides,
} from "writebehind";
import { shown } from "writebehind/config/address_parts.ts";
import { databaseUrlOf, parseDatabaseUrl } from "writebehind/config/database_address.ts";
import { parseRedisUrl, redisUrlOf } from "writebehind/config/redis_address.ts";

const database = (text: string) => parseDatabaseUrl("DATABASE_URL", text);
const redis = (text: string) => parseRedisUrl("REDIS_URL", text);
const PLAIN = { host: "h", port: 5432, database: "db", user: "me", password: "p", ssl: false };

Deno.test("addresses of PostgreSQL, with each parameter", () => {
  const cases: Record<string, Partial<ReturnType<typeof database>>> = {
    "postgresql://me:p@h/db": {},
    "postgres://me:p@h:5433/db": { port: 5433 },
    "postgresql://h/db?user=me&password=p": {},
    "postgresql://me:p@other/x?host=h&dbname=db": {},
    "postgresql://me:p@[::1]:5/db": { host: "::1", port: 5 },
    "postgresql://me:p@h/db?sslmode=require": { ssl: "require" },
    "postgresql://me:p@h/db?sslmode=verify-ca&sslrootcert=%2Fa%20b.pem": {
      ssl: "verify-ca",
      sslrootcert: "/a b.pem",
    },
    "postgresql://me:p@h/db?sslmode=verify-full": { ssl: true },
    "postgresql://me:p@h/db?sslmode=require&sslcert=a.crt&sslkey=%2Fa%20b.key": {
      ssl: "require",
      sslcert: "a.crt",
      sslkey: "/a b.key",
    },
    "postgresql://me:p@h/db?ssl=true": { ssl: true },
    "postgresql://me:p@h/db?sslmode=disable": {},
    "postgresql://me:p@h/db?options=-c%20search_path%3Dapp": { options: "-c search_path=app" },
    "postgresql://me:p@h/db?application_name=mine": { application_name: "mine" },
    "postgresql://me:a%zb@h/db": { password: "a%zb" },
    "postgresql://me:a%25b@h/db": { password: "a%b" },
    "postgresql://me:p@/db?host=/var/run/postgresql": { host: "/var/run/postgresql" },
    "postgresql://me:p@%2Fvar%2Frun/db": { host: "/var/run" },
    "postgresql://me:p@h": { database: "me" },
    "postgresql://me:p@?host=/run&dbname=db": { host: "/run" },
    "postgresql://me:p@:5433/db": { host: "localhost", port: 5433 },
    "postgresql://me:p@h/db?host=&user=&port=": {},
    "postgresql://me:p@ss@h/db": { password: "p@ss" },
    "postgresql://me:a%09b%0Ac@h/db": { password: "a\tb\nc" },
    "postgresql://me:p@h/a%2F..%2Fb": { database: "a/../b" },
  };
  for (const [url, different] of Object.entries(cases)) {
    assert.deepEqual(database(url), { ...PLAIN, ...different }, url);
  }
});

Deno.test("addresses of Redis, with each parameter", () => {
  const plain = { host: "h", port: 6379, db: 0, username: null, password: null, tls: false };
  const cases: Record<string, Partial<ReturnType<typeof redis>>> = {
    "redis://h": {},
    "rediss://h:6380": { tls: true, port: 6380 },
    "rediss://h?ssl_ca_certs=a.pem": { tls: true, tls_ca_file: "a.pem" },
    "rediss://h?ssl_certfile=a.crt&ssl_keyfile=a.key": {
      tls: true,
      tls_cert_file: "a.crt",
      tls_key_file: "a.key",
    },
    "redis://:p@h/2": { password: "p", db: 2 },
    "redis://me:a%zb@h?db=3": { username: "me", password: "a%zb", db: 3 },
    "redis://h?password=p": { password: "p" },
    "redis://[::1]:7": { host: "::1", port: 7 },
    "redis://:6380": { host: "localhost", port: 6380 },
    "unix:///tmp/redis.sock?db=1": { host: "/tmp/redis.sock", db: 1 },
    "unix://me:p@/tmp/a%3Fb": { host: "/tmp/a?b", username: "me", password: "p" },
  };
  for (const [url, different] of Object.entries(cases)) {
    assert.deepEqual(redis(url), { ...plain, ...different }, url);
  }
});

Deno.test("addresses of sentinels, read, written and shown", () => {
  const plain = {
    ...{ host: "localhost", port: 6379, db: 0, username: null, password: null, tls: false },
    ...{ sentinels: [{ host: "a", port: 26379 }], sentinel_name: "m" },
    ...{ sentinel_username: null, sentinel_password: null, sentinel_tls: false },
  };
  const cases: Record<string, Partial<ReturnType<typeof redis>>> = {
    "redis-sentinel://a?sentinelMasterId=m": {},
    "redis-sentinel://me:s3cret%40x@a,[::1]:7,b:8/3?sentinelMasterId=m": {
      ...{ username: "me", password: "s3cret@x", db: 3 },
      sentinels: [{ host: "a", port: 26379 }, { host: "::1", port: 7 }, { host: "b", port: 8 }],
    },
    "rediss-sentinel://a?sentinelMasterId=m&ssl_ca_certs=x.pem": {
      tls: true,
      tls_ca_file: "x.pem",
    },
    "redis-sentinel://a?sentinelMasterId=m&sentinelTls=true&ssl_ca_certs=x.pem": {
      sentinel_tls: true,
      tls_ca_file: "x.pem",
    },
    "redis-sentinel://a?sentinelMasterId=a%20%26&sentinelUsername=u&sentinelPassword=s3cret": {
      ...{ sentinel_name: "a &", sentinel_username: "u", sentinel_password: "s3cret" },
    },
  };
  for (const [url, different] of Object.entries(cases)) {
    const address = redis(url);
    assert.deepEqual(address, { ...plain, ...different }, url);
    assert.deepEqual(redis(redisUrlOf(address)), address, url);
    assert(!shown(redisUrlOf(address)).includes("s3cret"));
  }
  assert.equal(
    shown("redis-sentinel://me:s3cret@a:1,b:2/0?sentinelMasterId=m&sentinelPassword=s3cret"),
    "redis-sentinel://me:***@a:1,b:2/0?sentinelMasterId=m",
  );
});

Deno.test("addresses of a cluster, read, written and shown", () => {
  const url = "rediss-cluster://me:s3cret@a,[::1]:7/?ssl_ca_certs=x.pem";
  const address = redis(url);
  assert.deepEqual(address.cluster, [{ host: "a", port: 6379 }, { host: "::1", port: 7 }]);
  const { username, password, tls, tls_ca_file } = address;
  assert.deepEqual([username, password, tls, tls_ca_file], ["me", "s3cret", true, "x.pem"]);
  assert.deepEqual(redis(redisUrlOf(address)), address);
  assert.equal(shown("redis-cluster://me:s3cret@a:1,b:2"), "redis-cluster://me:***@a:1,b:2");
  const file = parseConfig("redis: { cluster: [{ host: c }] }", "f");
  const source = { redis: "environment", database: "config" } as const;
  const given = (redisUrl: string) =>
    configWith(file, serverOverrides({ redisUrl, databaseUrl: "postgresql://h/db", source })).redis;
  assert.equal(given("redis://h:1").cluster, null);
  assert.deepEqual(given("redis-cluster://d:1").cluster, [{ host: "d", port: 1 }]);
  assert.deepEqual(given(redisUrlOf(file.redis)).cluster, file.redis.cluster);
});

Deno.test("a Redis that the environment names wins over sentinels of the file, and its sentinels over those", () => {
  const file = parseConfig(
    "redis: { sentinels: [{ host: a }], sentinel_name: m, sentinel_password: x }",
    "f",
  );
  const given = (redisUrl: string) => {
    const source = { redis: "environment", database: "config" } as const;
    const servers = { redisUrl, databaseUrl: "postgresql://h/db", source };
    return configWith(file, serverOverrides(servers)).redis;
  };
  const server = given("redis://h:1");
  assert.deepEqual([server.host, server.sentinels, server.sentinel_name], ["h", null, null]);
  const others = given("redis-sentinel://b:1?sentinelMasterId=n");
  assert.deepEqual(others.sentinels, [{ host: "b", port: 1 }]);
  assert.deepEqual([others.sentinel_name, others.sentinel_password], ["n", null]);
  assert.deepEqual(given(redisUrlOf(file.redis)).sentinels, file.redis.sentinels);
});

Deno.test("an address with a mistake is refused by the variable's name, and never shown", () => {
  const cases: [read: (text: string) => unknown, text: string, names: RegExp][] = [
    [database, "postgresql:me:s3cret@h/db", /DATABASE_URL holds no address/],
    [database, "postgresql:/me:s3cret@h/db", /holds no address/],
    [database, "me:s3cret@h/db", /holds no address/],
    [database, "mysql://me:s3cret@h/db", /holds no address/],
    [database, "postgresql://me:s3cret@h:port/db", /port from 1 to 65535/],
    [database, "postgresql://me:s3cret@h1:1,h2:2/db", /expected one host/],
    [database, "postgresql://me:s3cret@h1,h2/db", /expected one host/],
    [
      database,
      "postgresql://me:s3cret@[fe80::1%25eth0]/db",
      /expected one host: .* without a zone/,
    ],
    [database, "postgresql://me:s3cret@h/db?host=h1,h2", /expected one host/],
    [database, "postgresql://me:s3cret@h%2Fx/db", /expected one host/],
    [database, "postgresql://me:12?s3cret@h/db", /has an @ behind the host; in a password .* %3F/],
    [database, "postgresql://me:12/s3cret@h/db", /has an @ behind the host; in a password .* %2F/],
    [database, "postgresql://me:p@12/s3cret@h/db", /has an @ behind the host/],
    [database, "postgresql://h/db?user=me&password=12@s3cret", /has an @ behind the host/],
    [database, "postgresql://me:12#s3cret@h/db", /has a #, which is written as %23/],
    [database, "postgresql://me:p@h/db#s3cret", /has a #/],
    [database, "postgresql://h/db?password=12&s3cret=1", /: the parameter is not known here/],
    [database, "postgresql://h/db?s3cret%20more=1", /: the parameter is not known here/],
    [database, "postgresql://me:s3c\tret@h/db", /has a tab, a line break/],
    [database, "postgresql://me:s3cret@h/db\n", /has a tab, a line break/],
    [database, "postgresql://me:s3cret%00@h/db", /%00/],
    [database, "postgresql://me:s3cret@h/db%00", /%00/],
    [database, "postgresql://me:s3cret@h/db?port=0x10", /port from 1 to 65535/],
    [redis, "redis://:12?s3cret@h", /has an @ behind the host/],
    [redis, "redis://:12/s3cret@h", /has an @ behind the host/],
    [redis, "redis://:s3cret#@h", /has a #/],
    [redis, "redis://:s3c\nret@h", /has a tab, a line break/],
    [redis, "redis://:s3cret%00@h", /%00/],
    [redis, "redis://:s3cret@h1,h2", /expected one host/],
    [redis, "redis://:s3cret@h:1e3", /port from 1 to 65535/],
    [redis, "redis-sentinel://:s3cret@h", /expected sentinelMasterId/],
    [redis, "redis-sentinel://:s3cret@h,?sentinelMasterId=m", /expected one host/],
    [redis, "redis-sentinel://:s3cret@%2Fa?sentinelMasterId=m", /expected one host/],
    [redis, "redis-sentinel://:s3cret@h:x?sentinelMasterId=m", /port from 1 to 65535/],
    [redis, "redis-sentinel://:s3cret@h?sentinelMasterId=m&host=h", /parameter host/],
    [redis, "redis-sentinel://:12/s3cret@h?sentinelMasterId=m", /has an @ behind the host/],
    [redis, "redis-sentinel://h?sentinelMasterId=m&ssl_ca_certs=a", /only with rediss:/],
    [redis, "redis://h?sentinelMasterId=m", /parameter sentinelMasterId/],
    [redis, "redis://h?password=12&s3cret=3", /: the parameter is not known here/],
    [redis, "unix://:s3cret@host/tmp/redis.sock", /a socket has a path, and neither host/],
    [redis, "unix://:s3cret@", /expected one host/],
    [database, "postgresql://me:s3cret@h/db?sslmode=bogus", /sslmode=bogus/],
    [database, "postgresql://me:s3cret@h/db?sslmode=prefer", /sslmode=prefer/],
    [database, "postgresql://me:s3cret@h/db?sslmode=allow", /may go on without TLS; use/],
    [database, "postgresql://me:s3cret@h/db?sslrootcert=a.pem", /needs an sslmode/],
    [redis, "redis://:s3cret@h?ssl_ca_certs=a.pem", /only with rediss:/],
    [redis, "redis://:s3cret@h?ssl_keyfile=a.pem", /ssl_keyfile is possible only with rediss:/],
    [redis, "rediss://:s3cret@h?ssl_keyfile=a", /ssl_keyfile needs ssl_certfile beside it/],
    [redis, "rediss://:s3cret@h?ssl_certfile=a", /ssl_certfile needs ssl_keyfile beside it/],
    [database, "postgresql://me:s3cret@h/db?ssl=1&sslkey=a", /sslkey needs sslcert beside it/],
    [database, "postgresql://me:s3cret@h/db?ssl=1&sslcert=a", /sslcert needs sslkey beside it/],
    [database, "postgresql://me:s3cret@h/db?sslcert=a&sslkey=b", /sslcert needs an sslmode/],
    [database, "postgresql://me:s3cret@h/db?currentSchema=app", /parameter currentSchema/],
    [database, "postgresql://me:s3cret@h/db?port=99999", /port from 1 to 65535/],
    [redis, "redis:/:s3cret@h", /REDIS_URL holds no address/],
    [redis, "http://:s3cret@h", /holds no address/],
    [redis, "redis://:s3cret@h?db=one", /number for db/],
    [redis, "redis://:s3cret@h?family=6", /parameter family/],
  ];
  for (const [read, text, names] of cases) {
    assert.throws(() => read(text), (error: Error) => {
      assert(error instanceof ConfigError);
      assert.match(error.message, names);
      assert.match(error.message, /^(DATABASE|REDIS)_URL\b[^\n]+$/);
      assert(!error.message.includes("s3cret"), error.message);
      return true;
    });
  }
});

Deno.test("an address that is written is read as the same, and shown without its password", () => {
  const word = fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => text.isWellFormed());
  const host = fc.constantFrom("localhost", "10.0.0.1", "::1", "bücher", "/var/run/a?b%20#@");
  const name = fc.oneof(word, fc.constantFrom(".", "..", "a/b", "?", "#", "%2e"));
  const mode = fc.constantFrom(false, true, "require" as const, "verify-ca" as const);
  const secret = word.map((text) => `s3cret${text}s3cret`);
  fc.assert(
    fc.property(host, name, word, secret, mode, (host, name, user, password, ssl) => {
      const file = ssl === false ? {} : { sslrootcert: name, sslcert: name, sslkey: user };
      const address = { host, port: 5432, database: name, user, password, ssl, ...file };
      assert.deepEqual(database(databaseUrlOf(address)), address);
      assert(!shown(databaseUrlOf(address)).includes("s3cret"));
      const tls = ssl !== false && !host.startsWith("/");
      const files = tls ? { tls_ca_file: name, tls_cert_file: user, tls_key_file: name } : {};
      const other = { host, port: 6379, db: 3, username: user, password, tls, ...files };
      assert.deepEqual(redis(redisUrlOf(other)), other);
      assert(!shown(redisUrlOf(other)).includes("s3cret"));
    }),
  );
});

Deno.test("a host of the file that is none is refused there, with its line", () => {
  for (const section of ["redis", "postgresql"]) {
    for (const host of ["h/x", "fe80::1%eth0", "h?x", "h#x", "h:1", "h1,h2", "[::1]", "a b", ""]) {
      assert.throws(
        () => parseConfig(`${section}:\n  host: ${JSON.stringify(host)}`, "f"),
        (error: Error) => error.message.startsWith(`f:2: ${section}.host: expected one host: `),
        host,
      );
    }
  }
});

Deno.test("an address of the environment is described as it works, without its password", () => {
  const shapes: [redisUrl: string, databaseUrl: string, line: RegExp][] = [
    ["redis://:s3cret@", "postgresql://me:s3cret@?host=/run", /me:\*\*\*@\?host=\/run \(/],
    ["redis://:s3cret@:7/1", "postgresql://me:s3cret@:5/db", /redis:\/\/:\*\*\*@:7\/1 .*@:5\/db/],
    ["unix://:s3cret@/a?db=1", "postgresql://h/db?password=s3cret&host=x", /\/db\?host=x \(/],
    ["redis://h?password=s3cret", "postgres://me:s3c:s3cret@h%2Fx", /me:\*\*\*@h%2Fx \(/],
  ];
  const source = { redis: "environment", database: "environment" } as const;
  for (const [redisUrl, databaseUrl, line] of shapes) {
    const described = describeServers({ redisUrl, databaseUrl, source });
    assert.match(described, line);
    assert(!described.includes("s3c"), described);
  }
  const config = configWith(parseConfig("", "f"), { redis: redis("redis://:p@:7") });
  assert.equal(shown(redisUrlOf(config.redis)), "redis://:***@localhost:7");
});
