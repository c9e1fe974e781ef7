import assert from "node:assert/strict";
import { ConfigError } from "writebehind";
import { configuredToWrite } from "writebehind/cli/common.ts";
import { configFile } from "../support/processes.ts";
import { testFolder } from "../support/servers.ts";

/** A checkout that runs no servers. */
const root = testFolder("root");

Deno.test("made-up documents go to a Redis that only the file names only by --url", async () => {
  const path = await configFile({ redis: { host: "prod", password: "secret" } });
  const env = () => undefined;
  await assert.rejects(configuredToWrite(path, undefined, { root, env }), (error: Error) => {
    assert(error instanceof ConfigError);
    assert.match(
      error.message,
      /only the configuration file names redis:\/\/:\*\*\*@prod:6379.*--url/,
    );
    return true;
  });
  const given = await configuredToWrite(path, "redis://elsewhere:7000", { root, env });
  assert.deepEqual([given.redis.host, given.redis.port], ["elsewhere", 7000]);
  const named = { root, env: (name: string) => name === "REDIS_URL" ? "redis://named" : undefined };
  assert.equal((await configuredToWrite(path, undefined, named)).redis.host, "named");
  await assert.rejects(configuredToWrite(path, "elsewhere", { root, env }), /^\S*: --url /);
});
