/** Sinks in somebody's program: stopped before they begin, or asked for what they are not for. */

import assert from "node:assert/strict";
import {
  ConfigError,
  configWith,
  consumePeriodically,
  insertDocument,
  RedisWriteBehind,
  Sinks,
  WriteBehindError,
} from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { filePipeline } from "../targets/pipelines.ts";

Deno.test("stopped sinks", async (t) => {
  await using pipeline = await filePipeline();
  const { redis, target, config } = pipeline;
  await insertDocument(redis, config, "session", { n: 1 }, "a");

  await t.step("a signal that is aborted already: nothing begins", async () => {
    const aborted = AbortSignal.abort();
    await using sink = consumePeriodically(redis, target, config, "session", aborted);
    assert.throws(() => sink.start(), /was stopped: make another/);
    await sink.stop();
    assert.equal(sink.status.events, 0);
    assert.equal(sink.status.partitions[0]!.state, "idle");
  });

  await t.step("none drains after its end as if all were applied", async () => {
    const sink = new RedisWriteBehind(redis, target, config, "session");
    assert.equal((await sink.drain()).events, 1);
    await sink.stop();
    await insertDocument(redis, config, "session", { n: 2 }, "b");
    const said = {
      name: "WriteBehindError",
      message: "the sink of session was stopped: make another",
    };
    await assert.rejects(sink.drain(), said);
    assert.throws(() => sink.start(), said);
    await sink.stop();
  });

  await t.step("sinks for what is not configured are none", () => {
    assert.throws(() => new Sinks(redis, config, { entities: ["nobody"] }), ConfigError);
    assert.throws(() => new Sinks(redis, config, { targets: ["nobody"] }), ConfigError);
  });

  await t.step("nobody waits for a target that will not be opened", async () => {
    const nowhere = {
      name: "nowhere",
      kind: "postgresql" as const,
      host: "127.0.0.1",
      port: freePort(),
      database: "nowhere",
      user: "nobody",
    };
    const both = configWith(config, { targets: [config.targets[0]!, nowhere] });
    const sinks = new Sinks(redis, both, { targets: ["nowhere"] });
    await assert.rejects(sinks.opened("nobody"), /no target "nobody" in the configuration/);
    await assert.rejects(sinks.opened("local"), /the target local is none of these sinks: nowhere/);
    sinks.start();
    const waiting = assert.rejects(sinks.opened("nowhere"), WriteBehindError);
    await sinks.stop();
    await waiting;
    await assert.rejects(sinks.opened("nowhere"), /the sinks were stopped/);
    assert.throws(() => sinks.start(), /the sinks were stopped/);
  });
});
