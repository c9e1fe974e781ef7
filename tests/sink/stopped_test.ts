/** Sinks in somebody's program: stopped, used for two things at once, or asked for what they are not for. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
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
import { waitFor } from "../support/servers.ts";
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

  await t.step("one drains, or was started: never both, nor twice at once", async () => {
    await using sink = new RedisWriteBehind(redis, target, config, "session");
    const first = sink.drain();
    const busy = { name: "WriteBehindError", message: /^the sink of session drains: wait/ };
    await assert.rejects(sink.drain(), busy);
    assert.throws(() => sink.start(), busy);
    assert.equal((await first).events, 1, "what was written behind the one before");
    assert.equal((await sink.drain()).events, 1, "drained again");
    sink.start();
    const started = { name: "WriteBehindError", message: /^the sink of session was started, / };
    await assert.rejects(sink.drain(), started);
  });

  await t.step(
    "a stop ends a drain, whatever signal that has, and nothing is claimed since",
    async () => {
      await using owner = consumePeriodically(redis, target, config, "session");
      const owned = () => owner.status.partitions[0]!.state === "owner";
      await waitFor(owned, { what: "an owner, for whom the drain waits" });
      await insertDocument(redis, config, "session", { n: 3 }, "c");
      const sink = new RedisWriteBehind(redis, target, config, "session");
      const claims: string[] = [];
      sink.events.on("claimed", ({ stream }) => claims.push(stream));
      let ended = false;
      const drained = sink.drain(new AbortController().signal).then(() => ended = true);
      await sink.stop();
      assert(ended, "a stop waits for the drain");
      await drained;
      await owner.stop();
      assert.deepEqual(claims, []);
    },
  );

  await t.step("a sink that was stopped leaves its caller's signal", async () => {
    const { signal } = new AbortController();
    const sink = consumePeriodically(redis, target, config, "session", signal);
    assert.equal(getEventListeners(signal, "abort").length, 1);
    await sink.stop();
    assert.deepEqual(getEventListeners(signal, "abort"), []);
  });

  await t.step("a listener that throws when a target is open harms nobody", async () => {
    await using sinks = new Sinks(redis, config);
    const failed: string[] = [];
    sinks.events.on("listenerFailed", ({ error }) => failed.push(error.message));
    sinks.onOpened(() => {
      throw new Error("of the listener");
    });
    sinks.start();
    await sinks.opened("local");
    assert.deepEqual([sinks.carried.length, failed], [1, ["of the listener"]]);
    await waitFor(() => sinks.carried[0]!.sink.status.partitions[0]!.state === "owner", {
      what: "its sink to begin",
    });
  });

  await t.step("a target is opened once", async () => {
    await using sinks = new Sinks(redis, config);
    const opening = sinks.open("local");
    const already = {
      name: "WriteBehindError",
      message: /^the target local is open already, or being/,
    };
    await assert.rejects(sinks.open("local"), already);
    await opening;
    sinks.start();
    await sinks.opened("local");
    await assert.rejects(sinks.open("local"), already);
    await assert.rejects(sinks.open("nobody"), ConfigError);
    assert.equal(sinks.carried.length, 1);
    await sinks.stop();
    await assert.rejects(sinks.open("local"), /the sinks were stopped/);
  });

  await t.step("a trim that Redis does not answer keeps no sink from ending", async () => {
    await using sink = pipeline.start(["sink"], { WRITEBEHIND_FAILPOINT: "trimming" });
    await insertDocument(redis, config, "session", { n: 4 }, "d");
    const hangs = () => sink.output().includes("failpoint trimming");
    await waitFor(hangs, { what: "a trim that hangs", deadlineMs: 60_000 });
    sink.kill("SIGTERM");
    let code: number | undefined;
    void sink.status.then((status) => code = status.code);
    await waitFor(() => code !== undefined, { what: "its end", deadlineMs: 60_000 });
    assert.equal(code, 0, sink.output());
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
