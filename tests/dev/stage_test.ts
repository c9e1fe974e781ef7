/** The page of the stage in a real browser: each button is seen on the page and in the servers. */

import assert from "node:assert/strict";
import {
  insertDocument,
  openTarget,
  pauseTarget,
  readFigures,
  RedisWriteBehind,
  resumeTarget,
  verify,
} from "writebehind";
import { processStartTime } from "writebehind/dev/servers/processes.ts";
import { serveStage } from "writebehind/dev/stage/serve.ts";
import { Stage } from "writebehind/dev/stage/stage.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { startTask } from "../support/processes.ts";
import { testPipeline } from "../support/pipeline.ts";
import { queryAt, testFolder, waitFor } from "../support/servers.ts";
import { ownerBesideStandby, StagePage } from "../support/stage_page.ts";

const rowsIn = async (stage: Stage) => {
  const [row] = await queryAt<{ rows: number }>(
    stage.servers!.own.databaseUrl,
    "SELECT count(*)::int AS rows FROM sessions",
  );
  return row!.rows;
};

Deno.test({
  name: "the stage, in a browser: every button does what it says, on the page and in the servers",
  ignore: browserPath === undefined,
  async fn(t) {
    await using stage = await Stage.start({ rate: 0 });
    await using served = await serveStage(stage);
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage({ viewport: { width: 1366, height: 768 } });
      const errors: string[] = [];
      page.on("pageerror", (error) => errors.push(error.message));
      page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
      const shown = new StagePage(page);
      await page.goto(served.url);
      await shown.says(/owns stream:session/);
      const figures = () => readFigures(stage.redis, stage.target, stage.config, "session");

      await t.step("the slider sets the rate, 0 stops it", async () => {
        await page.locator("#slider").fill("9"); // 500 a second
        await waitFor(async () => await shown.number("applied") > 300, { what: "applied/s" });
        await shown.nodeSays("writers", /\b500 \/s asked for/);
        // A second's worth is shown before a second is over.
        await waitFor(async () => (await figures()).applied > 300, { what: "that many applied" });
        const fastest = page.locator("#fastest");
        assert(await fastest.isHidden());
        await page.locator("#slider").fill(await page.locator("#slider").getAttribute("max") ?? "");
        await fastest.waitFor();
        await shown.nodeSays("writers", /[\d,]+ of 100,000 \/s/);
        await waitFor(async () => {
          const written = await shown.number("written");
          const said = /^as fast as possible: ([\d,]+) \/s$/.exec(await fastest.innerText())?.[1];
          const number = Number(said?.replaceAll(",", ""));
          return number > written / 1.3 && number < 1.3 * written;
        }, { what: "the tile and the writers to say the same", deadlineMs: 20_000 });
        await page.keyboard.press("0");
        await waitFor(async () => await shown.number("written") === 0, { what: "silence" });
        const { written: all } = await figures();
        assert.equal((await figures()).written, all);
        assert(await fastest.isHidden());
      });

      await t.step("a burst is written and applied", async () => {
        const before = await figures();
        await page.keyboard.press("b");
        await waitFor(async () => (await figures()).applied >= before.written + 4500, {
          what: "the burst applied",
          deadlineMs: 20_000,
        });
        await shown.says(/a burst of 5000/);
      });

      await t.step("PostgreSQL stops and starts", async () => {
        await page.locator("#slider").fill("11"); // 1000 a second
        await shown.click("stopPostgres");
        await shown.says(/PostgreSQL was stopped/);
        await waitFor(async () => await shown.number("lag") > 0, { what: "a lag on the page" });
        await shown.nodeSays("target", /stopped/);
        await waitFor(() => !stage.state.busy.includes("stopPostgres"), { what: "its end" });
        // The header is at its fullest.
        await shown.nodeSays("sinks", /tries again/);
        assert.deepEqual(await shown.unreadable(11), []);
        await assert.rejects(queryAt(stage.servers!.own.databaseUrl, "SELECT 1"), /ECONNREFUSED/);
        await shown.click("startPostgres");
        await shown.says(/PostgreSQL runs again/);
        await waitFor(async () => (await figures()).lag < 100, { what: "the target to catch up" });
        await shown.nodeSays("target", /runs/);
      });

      await t.step("a killed sink is replaced by the other", async () => {
        const owner = await ownerBesideStandby(stage);
        const process = (await figures()).partitions[0]!.owner;
        await page.keyboard.press("k");
        await shown.says(new RegExp(`kill -9 of sink ${owner.name}, process ${owner.pid}`));
        await shown.says(/took over after \d/);
        assert.equal(processStartTime(owner.pid), undefined);
        assert.notEqual((await figures()).partitions[0]!.owner, process);
      });

      await t.step("the network between the sinks and Redis is cut for 5 s", async () => {
        await shown.click("cut");
        await shown.says(/is cut for 5 s/);
        const { applied } = await figures();
        await waitFor(async () => await shown.number("lag") > 100, { what: "a lag on the page" });
        assert((await figures()).applied - applied < 500);
        await shown.says(/the network is there again/);
        await waitFor(async () => (await figures()).lag < 100, { what: "the target to catch up" });
      });

      await t.step("a poisoned document is parked, and replayed", async () => {
        await shown.click("poison");
        await shown.says(/document broken-1 was parked/);
        await waitFor(async () => await shown.big("parked") === "1", { what: "the tile" });
        assert.equal((await figures()).parked, 1);
        await shown.click("replay");
        await shown.says(/parked documents replayed: 1/);
        await waitFor(async () => await shown.big("parked") === "0", { what: "the tile" });
        const [row] = await queryAt<{ model: string }>(
          stage.servers!.own.databaseUrl,
          "SELECT payload->>'device_model' AS model FROM sessions WHERE id = 'broken-1'",
        );
        assert.equal(row?.model, "broken");
      });

      await t.step("the replica is promoted", async () => {
        const { primary, replica } = stage.servers!.own;
        await shown.click("promote");
        await shown.says(new RegExp(`the replica on port ${replica.port} is the primary now`));
        assert.equal(stage.servers!.own.primary.port, replica.port);
        await waitFor(async () => /role:master/.test(await stage.redis.info("replication")), {
          what: "the page's own connection on the new primary",
        });
        await waitFor(
          async () => (await shown.node("redis")).includes(`replica :${primary.port}`),
          {
            what: "the page",
          },
        );
        await waitFor(async () => (await figures()).lag < 100, { what: "the target to catch up" });
      });

      await t.step("Redis is killed, its replica takes over, and it comes back", async () => {
        const { primary, replica } = stage.servers!.own;
        await page.keyboard.press("d");
        await shown.says(
          new RegExp(`kill -9 of Redis on port ${primary.port}, process ${primary.pid}`),
        );
        await shown.says(new RegExp(`the replica on port ${replica.port} takes its place`));
        await shown.says(new RegExp(`Redis on port ${primary.port} is back, as the replica`));
        assert.equal(processStartTime(primary.pid), undefined);
        assert.equal(stage.servers!.own.primary.port, replica.port);
        await waitFor(
          async () => /connected_slaves:1/.test(await stage.redis.info("replication")),
          {
            what: "the page's own connection on the new primary, with a replica",
          },
        );
        const { applied } = await figures();
        await waitFor(async () => (await figures()).applied > applied + 500, {
          what: "it to go on",
        });
        await waitFor(async () => (await figures()).lag < 100, { what: "the target to catch up" });
      });

      await t.step("verify finds nothing lost, and the page says what verify says", async () => {
        await page.keyboard.press("0");
        await waitFor(async () => await shown.number("written") === 0, { what: "silence" });
        await waitFor(async () => (await figures()).lag === 0, { what: "nothing to wait for" });
        await page.keyboard.press("v");
        await waitFor(async () => await shown.big("lost") === "0", { what: "the tile" });
        await shown.says(/verified: [\d,]+ documents, 0 lost/);
        const report = await verify(stage.redis, stage.target, stage.config, "session");
        assert.deepEqual(report.counts, { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 });
        const small = await page.locator("#tile-lost .small").innerText();
        assert(small.endsWith(`of ${report.documents.toLocaleString("en")}`), small);
        const [, inAll] = (await page.locator("#tile-applied .small").innerText())
          .match(/([\d,]+) in all/)!;
        assert.equal(Number(inAll!.replaceAll(",", "")), (await figures()).applied);
      });

      await t.step("a row that was changed behind its back counts as lost", async () => {
        await queryAt(stage.servers!.own.databaseUrl, "DELETE FROM sessions WHERE id = 'broken-1'");
        await shown.click("verify");
        await waitFor(async () => await shown.big("lost") === "1", { what: "the tile" });
      });

      await t.step("reset, pressed twice, empties everything", async () => {
        await shown.click("reset");
        assert(await rowsIn(stage) > 0);
        await shown.click("reset");
        await shown.says(/everything is empty again/);
        assert.equal(await rowsIn(stage), 0);
        assert.equal(await stage.redis.exists("session:broken-1"), 0);
        assert.equal(await stage.redis.xlen("stream:session"), 0);
        await waitFor(async () => await shown.big("lost") === "?", { what: "the tile" });
        await shown.says(/owns stream:session/);
      });

      await t.step("the page says when its process is gone", async () => {
        assert.deepEqual(errors, []);
        await served[Symbol.asyncDispose]();
        const banner = page.locator("#banner");
        await banner.waitFor({ timeout: 10_000 });
        assert.match(await banner.innerText(), /process is gone, last heard of at \d\d:\d\d:\d\d/);
        assert(await shown.button("kill").isDisabled());
      });
    } finally {
      await browser.close();
    }
  },
});

Deno.test("the stage's address needs its token, and buttons are pressed from its page alone", async () => {
  await using pipeline = await testPipeline();
  const { config } = pipeline;
  await using stage = await Stage.start({ given: { config, configPath: undefined } });
  await using served = await serveStage(stage);
  const { origin } = new URL(served.url);
  const status = async (url: string, init?: RequestInit) => {
    const response = await fetch(url, init);
    await response.body?.cancel();
    return response.status;
  };
  assert.equal(await status(served.url), 200);
  assert.equal(await status(`${served.url}plot.js`), 200);
  assert.equal(await status(`${origin}/`), 404);
  assert.equal(await status(`${origin}/${"0".repeat(32)}/events`), 404);
  const from = (origin: string) => ({ method: "POST", headers: { origin }, body: "{}" });
  assert.equal(await status(`${served.url}act/verify`, from("http://elsewhere.example")), 403);
  assert.equal(await status(`${served.url}act/verify`, from(origin)), 202);
});

Deno.test("given servers are only read, without --control", async () => {
  await using pipeline = await testPipeline();
  const { config } = pipeline;
  const given = { config, configPath: undefined };
  {
    await using stage = await Stage.start({ given });
    assert.deepEqual(stage.state.allowed, ["verify"]);
    for (const name of ["rate", "burst", "poison", "replay"] as const) {
      assert.match(stage.act(name, 100) ?? "", /only read|not the stage's own/);
    }
    assert.equal(await pipeline.redis.dbsize(), 0);
  }
  await using stage = await Stage.start({ given, control: true });
  assert.match(stage.act("kill") ?? "", /not the stage's own/);
  assert.match(stage.act("rate", 1e6) ?? "", /from 0 to 100000/);
  assert.equal(stage.act("rate", 200), null);
  await waitFor(async () => await pipeline.redis.xlen("stream:session") > 20, { what: "events" });
});

Deno.test({
  name: "with several targets the page says how far each is",
  ignore: browserPath === undefined,
  async fn() {
    await using pipeline = await testPipeline();
    const config = pipeline.with({
      targets: [
        { name: "postgresql", kind: "postgresql" },
        { name: "local", kind: "sqlite", path: `${testFolder("stage")}/rows.db` },
      ],
    });
    const { redis, pool } = pipeline;
    for (const id of ["a", "b"]) await insertDocument(redis, config, "session", { id }, id);
    {
      await using sink = new RedisWriteBehind(redis, pool, config, "session");
      await sink.drain();
    }
    await using stage = await Stage.start({ given: { config, configPath: undefined } });
    await using served = await serveStage(stage);
    await using shown = await StagePage.open(served.url);
    const { page } = shown;
    await shown.nodeSays("target", /postgresql 0 behind · local has not begun/);
    assert.equal(await page.locator("#node-target b").innerText(), "Targets");
    await using file = await openTarget(config, "local");
    {
      await using sink = new RedisWriteBehind(redis, file, config, "session");
      await sink.drain();
    }
    await pauseTarget(redis, config, "session", "local");
    await shown.nodeSays("target", /postgresql 0 behind · local is paused/);
    await resumeTarget(redis, config, "session", "local");
    await insertDocument(redis, config, "session", {}, "c");
    await shown.nodeSays("target", /postgresql 1 behind · local 1 behind/);
    await redis.call("ACL", "SETUSER", "default", "-xinfo");
    await shown.nodeSays("target", /postgresql not known · local not known/);
    await redis.call("ACL", "SETUSER", "default", "+xinfo");
    await shown.nodeSays("target", /postgresql 1 behind · local 1 behind/);
    const wide = await page.evaluate("document.documentElement.scrollWidth");
    assert.equal(wide, 1366);
  },
});

/** The processes that work in folders of stages, or are its sinks. */
async function leftovers(pid: number): Promise<string[]> {
  const found: string[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const [line, directory] = await Promise.all([
      Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => ""),
      Deno.readLink(`/proc/${name}/cwd`).catch(() => ""),
    ]);
    const environment = await Deno.readTextFile(`/proc/${name}/environ`).catch(() => "");
    const own = environment.includes(`WRITEBEHIND_STAGE_TEST=${pid}`);
    if (own && line !== "") found.push(`${name} ${directory} ${line.replaceAll("\0", " ")}`);
  }
  return found;
}

Deno.test("nothing of the stage is left, after Ctrl-C and after kill -9", async (t) => {
  for (const [signal, code] of [["SIGINT", 0], ["SIGKILL", 137]] as const) {
    await t.step(signal, async () => {
      const mark = Math.floor(Math.random() * 2 ** 31);
      await using task = startTask(["stage", "--rate", "100"], {
        NO_COLOR: "1",
        WRITEBEHIND_STAGE_TEST: String(mark),
      });
      await waitFor(
        () => /the stage is at http:\/\/127\.0\.0\.1:\d+\/\w{32}\//.exec(task.output()),
        {
          what: "the page's address",
          deadlineMs: 60_000,
        },
      );
      assert((await leftovers(mark)).length > 5);
      task.kill(signal);
      assert.equal((await task.status).code, code, task.output());
      await waitFor(async () => (await leftovers(mark)).length === 0, {
        what: "all processes to end",
        deadlineMs: 20_000,
      }).catch(async (error) => {
        throw new Error(`${error.message}\n${(await leftovers(mark)).join("\n")}`);
      });
    });
  }
});

Deno.test("the stage on given servers that cannot be reached says so, with status 1", async () => {
  await using task = startTask(["stage"], {
    REDIS_URL: "redis://127.0.0.1:1",
    DATABASE_URL: "postgresql://a:b@127.0.0.1:1/c",
    NO_COLOR: "1",
  });
  assert.equal((await task.status).code, 1);
  assert.match(task.errors(), /Cannot connect to Redis at 127\.0\.0\.1:1/);
});
