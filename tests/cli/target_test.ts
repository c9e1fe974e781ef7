/** `deno task sink` with several targets, and `deno task target`. */

import assert from "node:assert/strict";
import { dirname } from "node:path";
import { insertDocument } from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { testPipeline } from "../support/pipeline.ts";
import { configFile, environmentOf, startTask } from "../support/processes.ts";
import { seriesOf } from "../support/prometheus.ts";
import { testFolder, waitFor } from "../support/servers.ts";

Deno.test("target: one that is away holds up no other, and is removed while all runs", async () => {
  await using pipeline = await testPipeline();
  const { redis, config, pool } = pipeline;
  const path = `${testFolder("target")}/rows.db`;
  const away = { host: "127.0.0.1", port: freePort(), database: "d", user: "u" };
  const file = await configFile({
    targets: [
      { name: "postgresql", kind: "postgresql" },
      { name: "away", kind: "mysql", ...away },
      { name: "local", kind: "sqlite", path },
    ],
    write_behind: { retry_base_ms: 5, retry_max_ms: 100 },
  });
  const environment = { ...environmentOf(config), WRITEBEHIND_DATA: dirname(path), NO_COLOR: "1" };
  const run = async (...args: string[]) => {
    await using task = startTask([...args, "--config", file], environment);
    const { code } = await task.status;
    return { code, output: task.output() };
  };
  const port = freePort();
  await using sink = startTask(
    ["sink", "--metrics", String(port), "--config", file],
    environment,
  );
  for (let index = 0; index < 50; index++) {
    await insertDocument(redis, config, "session", { index }, `d${index}`);
  }
  const applied = async () =>
    seriesOf(
      await (await fetch(`http://127.0.0.1:${port}/metrics`)).text(),
      "writebehind_applied_events_total",
    );
  const of = (target: string) => `entity="session",partition="0",target="${target}"`;
  await waitFor(async () => {
    const series = await applied();
    return series[of("postgresql")] === 50 && series[of("local")] === 50;
  }, { what: "both targets", deadlineMs: 20_000 });
  const up = seriesOf(
    await (await fetch(`http://127.0.0.1:${port}/metrics`)).text(),
    "writebehind_stream_events",
  );
  assert.deepEqual(Object.values(up), [50]); // said once
  assert.match(sink.output(), /carrying session events on to postgresql, away, local; Ctrl-C/);
  assert.match(
    sink.output(),
    /nothing is carried on to away, which cannot be opened; trying again: .*MySQL at/,
  );
  assert.equal((await pool.query("SELECT count(*)::int AS n FROM sessions")).rows[0].n, 50);

  const status = await run("status");
  assert.equal(status.code, 1);
  assert.match(status.output, /^Cannot connect to MySQL at 127\.0\.0\.1/m);
  assert.match(status.output, /^stream:session to postgresql \| ok \|/m);
  assert.match(status.output, /^stream:session to local \| ok \|/m);
  const list = await run("target", "list");
  assert.equal(list.code, 0);
  assert.match(
    list.output,
    /^stream:session \| postgresql \| postgresql \| active \|.*0 events behind$/m,
  );
  assert.match(
    list.output,
    /^stream:session \| away \| mysql \| not registered.*50 events behind, for which the stream is kept$/m,
  );
  const mended = await run("mend");
  assert.equal(mended.code, 0, mended.output);
  assert.match(mended.output, /away is left out, and its sink moves its offset back .*MySQL at/);
  assert.match(mended.output, /nothing to mend/);
  const unknown = await run("target", "remove", "local2");
  assert.equal(unknown.code, 1);
  assert.match(unknown.output, /know a target "local2"; they know: away, local, postgresql/);

  assert.equal((await run("target", "pause", "local")).code, 0);
  await waitFor(
    () =>
      /stream:session is not carried on to local: an operator has paused it/.test(sink.output()),
    { what: "the pause" },
  );
  await insertDocument(redis, config, "session", { index: 50 }, "d50");
  assert.match(
    (await run("status")).output,
    /^stream:session to local \| WARNING: the target is paused: run deno task target resume local \|/m,
  );
  const asked = await run("target", "remove", "local");
  assert.equal(asked.code, 1);
  assert.match(
    asked.output,
    /local would not get what waits for it: 1 event\n.*nothing was changed; --yes does it/,
  );
  const removed = await run("target", "remove", "local", "--yes");
  assert.equal(removed.code, 0);
  assert.match(removed.output, /stream:session: local does not get what waits for it: 1 event$/m);
  const added = await run("target", "add", "local");
  assert.equal(added.code, 0, added.output);
  assert.match(added.output, /session: 51 rows written, 0 removed, 0 documents refused/);
  const verified = await run("verify", "--target", "local");
  assert.equal(verified.code, 0, verified.output);
  assert.match(verified.output, /51 documents, 51 rows, 51 equal, 0 mismatches/);
  // What a line of the status says is to be run is for its entity and its target.
  await pool.query("UPDATE writebehind_offset SET doubt = 'a test', doubt_at = now()");
  const [, advice] =
    /^stream:session to postgresql \| DOUBTFUL: .* run deno task (verify .*?): a test/m
      .exec((await run("status")).output) ?? [];
  assert.equal(advice, "verify --entity session --target postgresql");
  assert.equal((await run(...advice.split(" "))).code, 0);
  assert.match((await run("status")).output, /^stream:session to postgresql \| ok \|/m);
  assert.match(
    (await run("verify", "--target", "none")).output,
    /no target "none" in the configuration; its targets are: postgresql, away, local/,
  );
  sink.kill("SIGINT");
  assert.equal((await sink.status).code, 0);
  assert.match(
    sink.output(),
    /stopped: postgresql: 51 events applied.*postgresql: 0 events left/s,
  );
});

Deno.test("one sink process carries the events of all entities", async () => {
  const entities = [
    { name: "session", table: "sessions", index_name: "idx:sessions" },
    { name: "order", table: "orders", index_name: "idx:orders" },
  ];
  await using pipeline = await testPipeline({ entities });
  const { redis, config, pool } = pipeline;
  const file = await configFile({ entities });
  await insertDocument(redis, config, "session", { of: "session" }, "s");
  await insertDocument(redis, config, "order", { of: "order" }, "o");
  const start = (...args: string[]) =>
    startTask(["sink", ...args, "--config", file], environmentOf(config));
  const rows = async (table: string) =>
    (await pool.query(`SELECT id FROM ${table}`).catch(() => ({ rows: [] }))).rows.length;
  {
    await using one = start("--entity", "order");
    await waitFor(async () => await rows("orders") === 1, { what: "the order" });
    assert.equal(await rows("sessions"), 0);
    one.kill("SIGINT");
    assert.equal((await one.status).code, 0);
    assert.match(one.output(), /carrying order events on to postgresql;/);
  }
  await using all = start();
  await waitFor(async () => await rows("sessions") === 1, { what: "the session" });
  await insertDocument(redis, config, "order", {}, "p");
  await waitFor(async () => await rows("orders") === 2, { what: "the other order" });
  all.kill("SIGINT");
  assert.equal((await all.status).code, 0);
  assert.match(all.output(), /carrying session, order events on to postgresql;/);
  assert.match(
    all.output(),
    /stopped: session: 1 event applied, 1 row; order: 1 event applied, 1 row; session: 0 events left/,
  );
});
