import fc from "fast-check";
import assert from "node:assert/strict";
import { ConfigError } from "writebehind";
import {
  databaseUrlOf,
  parseDatabaseUrl,
  parseRedisUrl,
  redisUrlOf,
  shown,
} from "writebehind/config/addresses.ts";

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
    "postgresql://me:p@h/db?sslmode=require": { ssl: true },
    "postgresql://me:p@h/db?sslmode=verify-full": { ssl: true },
    "postgresql://me:p@h/db?ssl=true": { ssl: true },
    "postgresql://me:p@h/db?sslmode=disable": {},
    "postgresql://me:p@h/db?options=-c%20search_path%3Dapp": { options: "-c search_path=app" },
    "postgresql://me:p@h/db?application_name=mine": { application_name: "mine" },
    "postgresql://me:a%zb@h/db": { password: "a%zb" },
    "postgresql://me:a%25b@h/db": { password: "a%b" },
    "postgresql://me:p@/db?host=/var/run/postgresql": { host: "/var/run/postgresql" },
    "postgresql://me:p@%2Fvar%2Frun/db": { host: "/var/run" },
    "postgresql://me:p@h": { database: "me" },
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
    "redis://:p@h/2": { password: "p", db: 2 },
    "redis://me:a%zb@h?db=3": { username: "me", password: "a%zb", db: 3 },
    "redis://h?password=p": { password: "p" },
    "redis://[::1]:7": { host: "::1", port: 7 },
    "unix:///tmp/redis.sock?db=1": { host: "/tmp/redis.sock", db: 1 },
  };
  for (const [url, different] of Object.entries(cases)) {
    assert.deepEqual(redis(url), { ...plain, ...different }, url);
  }
});

Deno.test("an address with a mistake is refused by the variable's name, and never shown", () => {
  const cases: [read: (text: string) => unknown, text: string, names: RegExp][] = [
    [database, "postgresql:me:s3cret@h/db", /DATABASE_URL holds no address/],
    [database, "postgresql:/me:s3cret@h/db", /holds no address/],
    [database, "me:s3cret@h/db", /holds no address/],
    [database, "mysql://me:s3cret@h/db", /holds no address/],
    [database, "postgresql://me:s3cret@h:port/db", /holds no address/],
    [database, "postgresql://me:s3cret@h1:1,h2:2/db", /holds no address/],
    [database, "postgresql://me:s3cret@h/db?sslmode=bogus", /sslmode=bogus/],
    [database, "postgresql://me:s3cret@h/db?sslmode=prefer", /sslmode=prefer/],
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
      assert(!error.message.includes("s3cret"), error.message);
      return true;
    });
  }
});

Deno.test("an address that is written is read as the same, and shown without its password", () => {
  const word = fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => text.isWellFormed());
  const host = fc.constantFrom("localhost", "10.0.0.1", "::1", "/var/run/postgresql");
  const name = fc.oneof(word, fc.constantFrom(".", "..", "a/b", "?", "#", "%2e"));
  const secret = word.map((text) => `s3cret${text}s3cret`);
  fc.assert(
    fc.property(host, name, word, secret, fc.boolean(), (host, name, user, password, ssl) => {
      const address = { host, port: 5432, database: name, user, password, ssl };
      assert.deepEqual(database(databaseUrlOf(address)), address);
      assert(!shown(databaseUrlOf(address)).includes("s3cret"));
      const other = { host, port: 6379, db: 3, username: user, password, tls: false };
      assert.deepEqual(redis(redisUrlOf(other)), other);
      assert(!shown(redisUrlOf(other)).includes("s3cret"));
    }),
  );
});
