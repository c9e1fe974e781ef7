/** What the stage shows of servers that it cannot read, or that answer others alone. */

import assert from "node:assert/strict";
import { insertDocument, openTarget, RedisWriteBehind } from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { serveStage } from "writebehind/dev/stage/serve.ts";
import { Stage } from "writebehind/dev/stage/stage.ts";
import type { StageSample } from "writebehind/dev/stage/watch.ts";
import { browserPath } from "../support/browser.ts";
import { drain, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";
import { StagePage } from "../support/stage_page.ts";

const RECORD = "stream:settings:session";

async function write({ redis, config }: Pipeline, count: number): Promise<void> {
  for (let made = 0; made < count; made++) {
    await insertDocument(redis, config, "session", { made });
  }
}

/** What keeps the figures from being read, though both servers answer. */
const TROUBLES: {
  breaks(pipeline: Pipeline): unknown;
  mends(pipeline: Pipeline): unknown;
  told: RegExp;
}[] = [{
  breaks: ({ redis }) => redis.call("ACL", "SETUSER", "default", "-xinfo"),
  mends: ({ redis }) => redis.call("ACL", "SETUSER", "default", "+xinfo"),
  told: /the figures cannot be read: .*'xinfo/,
}, {
  // As somebody's repartition to 8 leaves the record.
  breaks: ({ redis }) => redis.hset(RECORD, "partitions", "8"),
  mends: ({ redis }) => redis.hset(RECORD, "partitions", "1"),
  told: /the figures cannot be read: streams\.partitions: expected 8, .* got 1; use 8/,
}];

Deno.test({
  name: "the tiles never show as of now what cannot be read, and the list says why, once",
  ignore: browserPath === undefined,
  async fn() {
    await using pipeline = await testPipeline({ streams: { partitions: 1 } });
    await write(pipeline, 3);
    await drain(pipeline);
    await using proxy = await TcpProxy.start(pipeline.servers.postgres);
    const config = pipeline.with({ postgresql: { host: "127.0.0.1", port: proxy.port } });
    await using stage = await Stage.start({ given: { config, configPath: undefined } });
    await using served = await serveStage(stage);
    await using shown = await StagePage.open(served.url);
    const { page } = shown;
    const under = async (tile: string, text: RegExp) =>
      await waitFor(async () => text.test(await shown.small(tile)), {
        what: `${tile}: ${text}`,
        deadlineMs: 10_000,
      });
    await under("applied", /^3 in all$/);
    await under("parked", /^the dead letter is empty$/);
    for (const { breaks, mends, told } of TROUBLES) {
      const before = stage.happened.entries.length;
      await breaks(pipeline);
      await shown.says(told);
      await under("applied", /^3 at \d\d:\d\d:\d\d$/);
      await under("parked", /^0 at \d\d:\d\d:\d\d$/);
      for (const tile of ["written", "applied", "lag", "freshness", "parked"]) {
        assert.equal(await shown.big(tile), "–", tile);
      }
      assert.match(await shown.node("redis"), /given/);
      assert.match(await shown.node("target"), /given/);
      assert.deepEqual(await shown.unreadable(11), []);
      await mends(pipeline);
      await waitFor(() => stage.happened.entries.length > before + 1, { what: "the mend" });
      await under("applied", /^3 in all$/);
      const lines = stage.happened.entries.slice(before);
      assert.deepEqual(lines.map(({ tone }) => tone), ["wrong", "mend"], "once");
      assert.equal(lines[1]!.text, "the figures can be read again");
    }
    const pieces = () =>
      page.locator("#panel-lag [aria-label=line] path").evaluate((line) =>
        line.getAttribute("d")!.split("M").length - 1
      );
    await waitFor(async () => await pieces() === 1 + TROUBLES.length, {
      what: "lines that end where nothing was known",
      deadlineMs: 5000,
    });
    await proxy.refuse();
    await under("parked", /^as the target said last$/);
    assert.deepEqual([await shown.big("parked"), await shown.big("lag")], ["0", "0"]);
    assert.deepEqual(await shown.unreadable(11), []);
  },
});

Deno.test("a stage that alone has lost the target shows how far its sinks go on", async () => {
  await using pipeline = await testPipeline();
  const { redis, servers } = pipeline;
  await using proxy = await TcpProxy.start(servers.postgres);
  const config = pipeline.with({ postgresql: { host: "127.0.0.1", port: proxy.port } });
  await write(pipeline, 3);
  await drain(pipeline);
  const samples: StageSample[] = [];
  await using stage = await Stage.start({ given: { config, configPath: undefined } });
  stage.listen((message) => message.kind === "sample" && samples.push(message.sample));
  const shows = async (...expected: [written: number, applied: number, lag: number]) => {
    const last = () => {
      const { written, applied, lag } = samples.at(-1)!;
      return [written, applied, lag].join();
    };
    await waitFor(() => samples.length > 0 && last() === expected.join(), {
      what: `the stage to show ${expected}`,
      deadlineMs: 10_000,
    }).catch((error) => assert.equal(last(), expected.join(), error));
  };
  await shows(3, 3, 0);
  await proxy.refuse();
  await waitFor(() => !stage.state.reachable.target, { what: "the stage to lose the target" });
  await write(pipeline, 2);
  await shows(5, 3, 2);
  await drain(pipeline);
  await shows(5, 5, 0);
  {
    // As sinks that run on: nothing is told at their end.
    await using target = await openTarget(pipeline.config);
    await using sink = new RedisWriteBehind(redis, target, pipeline.config, "session");
    await write(pipeline, 4);
    await sink.drain();
    await shows(9, 9, 0);
  }
  await write(pipeline, 1);
  await shows(10, 9, 1);
  assert(!stage.state.reachable.target);
  await proxy.heal();
  await waitFor(() => stage.state.reachable.target, { what: "the target", deadlineMs: 10_000 });
  await shows(10, 9, 1);
  for (const [index, { written }] of samples.entries()) {
    assert(written >= (samples[index - 1]?.written ?? 0), "nothing is written backwards");
  }
});
