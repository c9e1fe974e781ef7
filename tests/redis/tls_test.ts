import assert from "node:assert/strict";
import { join } from "node:path";
import { insertDocument } from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { rowsOf, testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

/** A key that protects nothing, and its certificate for `localhost`. */
const CERTIFICATE = join(import.meta.dirname!, "..", "support", "localhost.pem");

Deno.test("a sink drains a Redis that speaks TLS and asks for a user, and refuses one that it cannot trust", async () => {
  const port = freePort();
  await using pipeline = await testPipeline({}, {
    redis: {
      extraArgs: [
        ...["--tls-port", String(port), "--tls-auth-clients", "no"],
        ...["--tls-cert-file", CERTIFICATE, "--tls-key-file", CERTIFICATE],
      ],
    },
  });
  const { redis, config } = pipeline;
  await redis.call("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "&*", "+@all");
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  const env = {
    ...environmentOf(config),
    REDIS_URL: `rediss://app:hunter2@localhost:${port}`,
  };
  {
    await using stranger = startTask(["sink"], env);
    assert.equal((await stranger.status).code, 1);
    assert.match(stranger.output(), /Cannot connect to Redis at localhost:\d+: .*certificate/);
    assert(!stranger.output().includes("hunter2"));
  }
  await using sink = startTask(["sink"], { ...env, DENO_CERT: CERTIFICATE });
  await waitFor(async () => (await rowsOf(pipeline)).has("a"), {
    what: "the first row",
    deadlineMs: 20_000,
  });
  // What comes while the sink waits goes the same way.
  await insertDocument(redis, config, "session", { n: 2 }, "b");
  await waitFor(async () => (await rowsOf(pipeline)).has("b"), { what: "the second row" });
  const names = await redis.call("CLIENT", "LIST") as string;
  assert.match(names, /user=app .*name=writebehind-reader|name=writebehind-reader .*user=app/);
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
});
