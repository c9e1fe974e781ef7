import assert from "node:assert/strict";
import {
  caughtUp,
  ConfigError,
  ConnectionError,
  connectRedis,
  consumePeriodically,
  insertDocument,
} from "writebehind";
import { assertEqual, drain, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** Patterns of keys for just the names of the default configuration. */
const OWN_KEYS = [
  ...["session:*", "stream:session", "stream:settings:session", "stream:lastid:stream:session"],
  ...["request:session:*", "metrics:*", "log:redis:*", "log:postgres:*", "idx:sessions"],
].map((key) => `~${key}`);

Deno.test("a user for just the keys of the configuration writes and drains", async () => {
  await using pipeline = await testPipeline();
  await pipeline.redis.call("ACL", "SETUSER", "app", "on", ">secret", "+@all", "&*", ...OWN_KEYS);
  const config = pipeline.with({ redis: { username: "app", password: "secret" } });
  await using redis = await connectRedis(config);
  await insertDocument(redis, config, "session", { n: 1 }, "one");
  await drain({ ...pipeline, redis, config });
  await assertEqual(pipeline);
});

Deno.test("each key that is missing in the user's rights is named when connecting", async (t) => {
  await using pipeline = await testPipeline();
  for (const missing of OWN_KEYS) {
    await t.step(missing, async () => {
      const rest = OWN_KEYS.filter((key) => key !== missing);
      await pipeline.redis.call(
        "ACL",
        "SETUSER",
        "app",
        "reset",
        "on",
        ">secret",
        "+@all",
        ...rest,
      );
      const config = pipeline.with({ redis: { username: "app", password: "secret" } });
      await assert.rejects(connectRedis(config), (error: Error) => {
        assert(error instanceof ConnectionError);
        const name = missing.slice(1).replace("*", "");
        assert(error.message.includes(`on ${name}`), error.message);
        assert(!error.message.includes("secret"));
        return true;
      });
    });
  }
});

Deno.test("a right that only waiting takes, taken away under way, is tried for ever less often", async () => {
  await using pipeline = await testPipeline({ write_behind: { retry_base_ms: 5 } });
  const config = pipeline.with({ redis: { username: "sink", password: "secret" } });
  await pipeline.redis.acl("SETUSER", "sink", ">secret", "on", "~*", "&*", "+@all");
  await using redis = await connectRedis(config);
  await using sink = consumePeriodically(redis, pipeline.pool, config, "session");
  const failures: number[] = [];
  let recovered = 0;
  sink.events.on("failed", ({ failures: inARow }) => failures.push(inARow));
  sink.events.on("recovered", () => recovered++);
  await insertDocument(pipeline.redis, config, "session", {}, "a");
  await caughtUp(pipeline.redis, pipeline.pool, config, "session");
  await pipeline.redis.acl("SETUSER", "sink", "-xread");
  await waitFor(() => failures.length >= 6, { what: "failures", deadlineMs: 30_000 });
  assert.deepEqual([failures.slice(0, 6), recovered], [[1, 2, 3, 4, 5, 6], 0]);
  assert.match(sink.status.partitions[0]!.lastError!, /grant it by ACL SETUSER .*'xread'/);
  await pipeline.redis.acl("SETUSER", "sink", "+xread");
  await waitFor(() => recovered === 1, { what: "the end of it", deadlineMs: 30_000 });
});

Deno.test("a command that was renamed is named when connecting", async () => {
  await assert.rejects(
    testPipeline({}, { redis: { extraArgs: ["--rename-command", "XTRIM", "hidden"] } }),
    (error: Error) => error instanceof ConnectionError && /know XTRIM; were/.test(error.message),
  );
});

Deno.test("a keyPrefix is refused: the sink would look for other keys", async () => {
  await using pipeline = await testPipeline();
  await assert.rejects(
    connectRedis(pipeline.config, { keyPrefix: "mine:" }),
    (error: Error) => error instanceof ConfigError && /keyPrefix/.test(error.message),
  );
});
