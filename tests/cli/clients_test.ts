import assert from "node:assert/strict";
import { join } from "node:path";
import { configWith, parseConfig } from "writebehind";
import { postgresClient, redisClient } from "writebehind/cli/clients.ts";
import { startTask } from "../support/processes.ts";
import { testFolder, testRedis } from "../support/servers.ts";

Deno.test("redis-cli is on the Redis that every command uses, and takes what follows", async () => {
  await using redis = await testRedis({ password: "secret0123" });
  const env = { REDIS_URL: redis.url, DATABASE_URL: "", NO_COLOR: "1" };
  await using ping = startTask(["redis-cli", "-n", "1", "ECHO", "hello"], env);
  assert.equal((await ping.status).code, 0, ping.output());
  assert.match(ping.output(), /^hello$/m);
  assert(!ping.output().includes("secret0123"));
});

Deno.test("psql gets the database in its environment, and what follows as arguments", async () => {
  const bin = testFolder("bin");
  await Deno.mkdir(bin);
  // It may not be installed here: what matters is what it would be told.
  const told =
    'echo "$PGUSER@$PGHOST:$PGPORT/$PGDATABASE $PGPASSWORD $PGSSLMODE"; echo "$@"; exit 3';
  await Deno.writeTextFile(join(bin, "psql"), `#!/bin/sh\n${told}\n`, { mode: 0o755 });
  const env = {
    PATH: `${bin}:${Deno.env.get("PATH")}`,
    REDIS_URL: "redis://localhost:1",
    DATABASE_URL: "postgresql://app:se%20cret@db:5433/shop?sslmode=require",
    NO_COLOR: "1",
  };
  await using psql = startTask(["psql", "-Atc", "SELECT 1"], env);
  assert.equal((await psql.status).code, 3, psql.output());
  assert.match(psql.output(), /^app@db:5433\/shop se cret require\n-Atc SELECT 1$/m);
});

Deno.test("no password is among the arguments of a client", () => {
  const config = configWith(parseConfig("", "test.yaml"), {
    redis: { username: "app", password: "redis-secret", tls: true, tls_ca_file: "ca.pem" },
    postgresql: { password: "pg-secret" },
  });
  const redis = redisClient(config, config.redis, "redis-cli");
  assert.equal(
    redis.args.join(" "),
    "-h localhost -p 6379 --user app --tls --cacert ca.pem",
  );
  const cluster = configWith(config, { redis: { cluster: [{ host: "a" }] } });
  assert(redisClient(cluster, cluster.redis, "redis-cli").args.includes("-c"));
  assert.deepEqual(redis.env, { REDISCLI_AUTH: "redis-secret" });
  const postgres = postgresClient(config, "psql");
  assert.deepEqual(postgres.args, []);
  assert.equal(postgres.env.PGPASSWORD, "pg-secret");
});
