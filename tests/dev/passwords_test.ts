import assert from "node:assert/strict";
import { join } from "node:path";
import { Redis } from "ioredis";
import { describeServers, parseConfig } from "writebehind";
import { servicesFolder } from "writebehind/config/checkout.ts";
import { readRecord } from "writebehind/config/record.ts";
import { readPasswords } from "writebehind/dev/servers/passwords.ts";
import { markFile } from "writebehind/dev/servers/postgres_roles.ts";
import { startServices, stopServices } from "writebehind/dev/servers/services.ts";
import { queryAt, testFolder, testPostgres } from "../support/servers.ts";

/** The permission bits of a file or folder. */
const modeOf = async (path: string) => (await Deno.stat(path)).mode! & 0o777;

Deno.test("embedded servers demand generated passwords, which only their owner may read", async () => {
  const root = testFolder("root");
  await Deno.mkdir(root);
  const config = parseConfig("", "test.yaml");
  const services = await startServices({ root, config, env: () => undefined });
  try {
    const folder = servicesFolder(root);
    const passwords = await readPasswords(root);
    const all = Object.values(passwords);
    assert.equal(new Set(all).size, 3);
    assert.equal(await modeOf(join(folder, "passwords.json")), 0o600);
    assert.equal(await modeOf(join(folder, "state.json")), 0o600);
    assert.equal(await modeOf(join(folder, "redis", "secrets.conf")), 0o600);
    for (const name of ["redis", "replica", "postgres"]) {
      assert.equal(await modeOf(join(folder, name)), 0o700, name);
    }
    // As root, PostgreSQL runs under another account, which has to pass through.
    assert.equal(await modeOf(folder), Deno.uid() === 0 ? 0o711 : 0o700);
    assert(!all.some((password) => describeServers(services).includes(password)));

    const { servers } = await readRecord(root);
    for (const { pid } of Object.values(servers)) {
      if (Deno.build.os !== "linux") break;
      const seen = await Deno.readTextFile(`/proc/${pid}/cmdline`);
      assert(!all.some((password) => seen.includes(password)), seen);
    }
    for (const { port } of [servers.redis!, servers.replica!]) {
      using stranger = new Disconnecting(port);
      await assert.rejects(stranger.redis.ping(), /NOAUTH/);
      using friend = new Disconnecting(port, passwords.redis);
      assert.equal(await friend.redis.ping(), "PONG");
      await assert.rejects(friend.redis.call("DEBUG", "SLEEP", "0"), /DEBUG command not allowed/);
    }
    const { databaseUrl } = services;
    await assert.rejects(queryAt(databaseUrl.replace(passwords.application, "redis"), "SELECT"));
    for (
      const forbidden of [
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "COPY (SELECT 1) TO '/tmp/writebehind'",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE ROLE above SUPERUSER",
        "SET ROLE postgres",
      ]
    ) {
      await assert.rejects(queryAt(databaseUrl, forbidden), (error: { code?: string }) => {
        assert.equal(error.code, "42501", forbidden);
        return true;
      });
    }
    const { ownerUrl } = servers.postgres!;
    assert.deepEqual(await queryAt(ownerUrl!, "SELECT rolsuper FROM pg_roles WHERE oid = 10"), [
      { rolsuper: true },
    ]);
  } finally {
    await stopServices({ root });
  }
});

/** A connection that closes at the end of its scope. */
class Disconnecting implements Disposable {
  readonly redis: Redis;
  constructor(port: number, password?: string) {
    this.redis = new Redis({ port, password, lazyConnect: true, retryStrategy: () => null });
    this.redis.on("error", () => {});
  }
  [Symbol.dispose](): void {
    this.redis.disconnect();
  }
}

Deno.test("data of the version before, with one superuser of a well-known password, is taken over", async () => {
  await using made = await testPostgres();
  const { dir, port, database } = made;
  const before = (password: string) =>
    `postgresql://redis:${password}@127.0.0.1:${port}/${database}`;
  await queryAt(made.ownerUrl, "CREATE ROLE between SUPERUSER LOGIN PASSWORD 'between'");
  const between = `postgresql://between:between@127.0.0.1:${port}/${database}`;
  await queryAt(
    between,
    `ALTER DATABASE ${database} OWNER TO postgres; DROP OWNED BY redis; DROP ROLE redis;
     ALTER ROLE postgres RENAME TO redis; ALTER ROLE redis PASSWORD 'redis'`,
  );
  await queryAt(
    before("redis"),
    `DROP ROLE between; CREATE SCHEMA app; CREATE VIEW app.one AS SELECT 1 AS one;
     CREATE TABLE sessions (id TEXT PRIMARY KEY, number BIGINT GENERATED ALWAYS AS IDENTITY, old SERIAL);
     INSERT INTO sessions (id) VALUES ('kept'); CREATE SEQUENCE counting;
     CREATE FUNCTION two() RETURNS int RETURN 2`,
  );
  await made.stop();
  // What the version before left behind has no mark.
  await Deno.remove(markFile(join(dir, "data")));
  await using taken = await testPostgres({ dir, port });
  await assert.rejects(queryAt(before("redis"), "SELECT"), /password/);
  assert.deepEqual(await queryAt(taken.url, "SELECT id FROM sessions"), [{ id: "kept" }]);
  await queryAt(
    taken.url,
    `ALTER TABLE sessions ADD COLUMN more INT; ALTER SEQUENCE counting RESTART; DROP FUNCTION two;
     DROP SCHEMA app CASCADE; ALTER DATABASE ${database} SET work_mem = '5MB'; CREATE TABLE mine (id INT)`,
  );
  assert.deepEqual(
    await queryAt(taken.url, "SELECT rolname, rolsuper FROM pg_roles WHERE rolcanlogin ORDER BY 1"),
    [{ rolname: "postgres", rolsuper: true }, { rolname: "redis", rolsuper: false }],
  );
});

Deno.test("a password file with something else in it is refused, and not shown", async () => {
  const root = testFolder("root");
  await readPasswords(root);
  await Deno.writeTextFile(join(servicesFolder(root), "passwords.json"), '{ "redis": "s3cret');
  await assert.rejects(readPasswords(root), (error: Error) => {
    assert.match(error.message, /passwords\.json does not hold the passwords.*remove it/);
    assert(!Deno.inspect(error).includes("s3cret"));
    return true;
  });
});
