import assert from "node:assert/strict";
import { ConfigError, ConnectionError, connectRedis, insertDocument } from "writebehind";
import { assertEqual, drain, testPipeline } from "../support/pipeline.ts";

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
