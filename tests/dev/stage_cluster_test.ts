/** The stage on a Redis Cluster, in a real browser: the page says what status says, and a killed master loses nothing. */

import assert from "node:assert/strict";
import { insertDocument, readFigures, readStatus, verify } from "writebehind";
import { askNode } from "writebehind/dev/servers/cluster.ts";
import { processStartTime } from "writebehind/dev/servers/processes.ts";
import { StageCluster } from "writebehind/dev/stage/cluster.ts";
import type { MasterView } from "writebehind/dev/stage/nodes.ts";
import { serveStage } from "writebehind/dev/stage/serve.ts";
import { Stage } from "writebehind/dev/stage/stage.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { startTask } from "../support/processes.ts";
import { queryAt, testFolder, waitFor } from "../support/servers.ts";
import { StagePage } from "../support/stage_page.ts";

/** How long a failover may take on a machine that is busy, in ms. */
const FAILOVER_MS = 60_000;

/** By the word of status: which node has which partitions. */
async function nodesOf({ redis, target, config, entity }: Stage): Promise<Map<string, number[]>> {
  const status = await readStatus(redis, target, config, entity);
  const byNode = Map.groupBy(status.keys(), (index) => status[index]!.node!);
  return new Map([...byNode].map(([node, partitions]) => [node, [...partitions]]));
}

/** What the page says of one master, as a person reads it. */
async function mastersOn({ page }: StagePage): Promise<Map<string, number[]>> {
  const lines = await page.locator("#masters li").allInnerTexts();
  return new Map(lines.map((line) => {
    const [, name, count, list] = /^(\S+)\s+(\d+) partitions: ([\d– ]+?)\s+replica \S+$/
      .exec(line)!;
    const partitions = list!.split(" ").flatMap((range) => {
      const [from, to = from] = range.split("–").map(Number) as [number, number?];
      return Array.from({ length: to! - from + 1 }, (_, n) => from + n);
    });
    assert.equal(partitions.length, Number(count), line);
    return [name!, partitions];
  }));
}

/** Writes until it is stopped; each document until a replica has it. */
async function confirmed({ redis, config, entity }: Stage, stop: AbortSignal): Promise<string[]> {
  const ids: string[] = [];
  const write = async (lane: number) => {
    for (let n = 0; !stop.aborted; n++) {
      const id = `ours-${lane}-${n}`;
      const options = { requestId: crypto.randomUUID(), durability: "replicas" } as const;
      await waitFor(
        () =>
          insertDocument(redis, config, entity, { n }, id, options).then(() => true, () => false),
        { what: "the write", deadlineMs: FAILOVER_MS },
      );
      ids.push(id);
    }
  };
  await Promise.all([0, 1, 2, 3].map(write));
  return ids;
}

Deno.test({
  name: "the stage on a cluster: a master is killed, its replica takes over, and nothing is lost",
  ignore: browserPath === undefined,
  async fn(t) {
    let urls: string[] = [];
    {
      await using stage = await Stage.start({ cluster: true });
      await using served = await serveStage(stage);
      const own = stage.servers!.own.cluster!;
      urls = own.nodes.map(({ url }) => url);
      const browser = await launchBrowser();
      try {
        const page = await browser.newPage({ viewport: { width: 1366, height: 768 } });
        const errors: string[] = [];
        page.on("pageerror", (error) => errors.push(error.message));
        const shown = new StagePage(page);
        await page.goto(served.url);
        const figures = () => readFigures(stage.redis, stage.target, stage.config, "session");

        const saysWhatStatusSays = async () => {
          const nodes = new Map(
            [...await nodesOf(stage)].map(([node, has]) => [node.replace("127.0.0.1", ""), has]),
          );
          await waitFor(async () => {
            const said = await mastersOn(shown).catch(() => new Map()); // on their way
            return JSON.stringify([...said].sort()) === JSON.stringify([...nodes].sort());
          }, { what: "the page to say what status says", deadlineMs: 10_000 }).catch(async () =>
            assert.deepEqual(await mastersOn(shown), nodes)
          );
        };

        await t.step("the page says who has which partition", async () => {
          await shown.nodeSays("redis", /3 masters, 3 replicas/);
          await waitFor(async () => /A owns 8 · B owns 8/.test(await shown.node("sinks")), {
            what: "the sinks to share",
            deadlineMs: 30_000,
          });
          const owners = (await figures()).partitions.map(({ owner }) => owner!.split("-")[0]);
          for (const { pid, partitions } of stage.state.sinks) {
            assert.equal(owners.filter((owner) => owner === String(pid)).length, partitions);
          }
          await saysWhatStatusSays();
          const labels = await page.locator("#buttons button:visible").allInnerTexts();
          assert.deepEqual(labels.map((label) => label.replace(/^\S+\s+/, "")), [
            ...["Burst", "Stop PostgreSQL", "Kill a sink", "Cut the network", "Promote a replica"],
            ...["Kill a master", "Poison a document", "Mend and replay", "Verify", "Reset"],
          ]);
          for (const [width, height, least] of [[1920, 1080, 14], [1366, 768, 11]] as const) {
            await page.setViewportSize({ width, height });
            await waitFor(async () => (await shown.unreadable(least)).length === 0, {
              what: "the page to be drawn for its size",
              deadlineMs: 5000,
            }).catch(async () =>
              assert.deepEqual(await shown.unreadable(least), [], `${width} px`)
            );
          }
        });

        await t.step("the master with the most partitions is killed", async () => {
          const [before, most] = [...await nodesOf(stage)]
            .toSorted(([, a], [, b]) => b.length - a.length)[0]!;
          const { pid, port } = own.nodes.find((node) => before.endsWith(`:${node.port}`))!;
          const replica = await own.replicaOf({ port } as typeof own.nodes[number]);
          stage.act("rate", 100);
          const stop = new AbortController();
          const writing = confirmed(stage, stop.signal);
          await waitFor(async () => (await figures()).applied > 100, { what: "events" });
          await page.keyboard.press("d");
          const has = `${most.length} of 16 partitions`;
          await shown.says(
            new RegExp(`kill -9 of the master on port ${port}, process ${pid}, with ${has}`),
          );
          const all = () =>
            page.evaluate(() => {
              const text = (of: string) =>
                [...document.querySelectorAll(of)].map((one) => one.textContent!);
              return {
                redis: text("#node-redis span").join(),
                down: text("#masters li.down > s"),
                big: text("#tiles .value").slice(0, 4),
                small: text("#tiles .small")[0]!,
              };
            });
          let seen: Awaited<ReturnType<typeof all>>;
          await waitFor(async () => (seen = await all()).redis === "2 of 3 masters answer", {
            what: "the page to say that a master is away",
            deadlineMs: 20_000,
          });
          assert.deepEqual(seen!.down, [`:${port}`]);
          assert.deepEqual(seen!.big, ["–", "–", "–", "–"]);
          assert.match(seen!.small, /^[\d,]+ at \d\d:\d\d:\d\d$/);
          await shown.says(
            new RegExp(`the replica on port ${replica.port} takes its`),
            FAILOVER_MS,
          );
          // Calls have failed, so it is not the machine that is slow.
          assert(await page.locator("#fastest").isHidden());
          await shown.says(/the node on port \d+ is back, as the replica/, FAILOVER_MS);
          assert.equal(processStartTime(pid), undefined);
          await saysWhatStatusSays();
          assert.deepEqual((await nodesOf(stage)).get(`127.0.0.1:${replica.port}`), most);
          const { applied } = await figures();
          await waitFor(async () => (await figures()).applied > applied + 100, {
            what: "it to go on",
            deadlineMs: 30_000,
          });
          stop.abort();
          stage.act("rate", 0);
          const ids = await writing;
          await waitFor(async () => (await figures()).lag === 0, {
            what: "nothing to wait for",
            deadlineMs: 30_000,
          });
          const rows = await queryAt<{ id: string }>(
            stage.servers!.own.databaseUrl,
            "SELECT id FROM sessions WHERE id LIKE 'ours-%'",
          );
          const there = new Set(rows.map(({ id }) => id));
          assert(ids.length > 20);
          assert.deepEqual(ids.filter((id) => !there.has(id)), []);
        });

        await t.step(
          "a replica is promoted, and every figure is verify's and the servers'",
          async () => {
            await shown.click("promote");
            await shown.says(
              /the replica on port \d+ is the master of \d of 16 partitions now/,
              30_000,
            );
            await waitFor(() => !stage.state.busy.includes("promote"), { what: "its end" });
            await saysWhatStatusSays();
            await page.keyboard.press("v");
            await waitFor(async () => await shown.big("lost") === "0", {
              what: "the tile",
              deadlineMs: 20_000,
            });
            const report = await verify(stage.redis, stage.target, stage.config, "session");
            assert.deepEqual(report.counts, {
              mismatches: 0,
              behind: 0,
              parked: 0,
              notForwarded: 0,
            });
            const { written, applied, lag } = await figures();
            assert.deepEqual([written, lag], [applied, 0]);
            const inAll = `${applied.toLocaleString("en")} in all`;
            for (const tile of ["written", "applied"]) {
              await waitFor(async () => await shown.small(tile) === inAll, { what: tile });
              await waitFor(async () => await shown.big(tile) === "0", { what: tile });
            }
            const small = await shown.small("lost");
            assert(small.endsWith(`of ${report.documents.toLocaleString("en")}`), small);
            assert.deepEqual(errors, []);
          },
        );

        await t.step("the network to all nodes is cut, and everything is emptied", async () => {
          stage.act("rate", 100);
          await shown.click("cut");
          await shown.says(/is cut for 5 s/);
          const { applied } = await figures();
          await waitFor(async () => await shown.number("lag") > 100, { what: "a lag" });
          assert((await figures()).applied - applied < 50, "no sink reaches any node");
          await shown.says(/the network is there again/);
          await waitFor(async () => (await figures()).lag < 50, {
            what: "the target to catch up",
            deadlineMs: 30_000,
          });
          await shown.click("reset");
          await shown.click("reset");
          await shown.says(/everything is empty again/, 30_000);
          const [row] = await queryAt<{ rows: number }>(
            stage.servers!.own.databaseUrl,
            "SELECT count(*)::int AS rows FROM sessions",
          );
          assert.deepEqual([row!.rows, (await figures()).written], [0, 0]);
          await shown.says(/sink . owns \d+ of 16 partitions/, 30_000);
        });

        await t.step("somebody else's cluster is shown, and not broken", async () => {
          const given = { config: stage.config, configPath: undefined };
          await using watching = await Stage.start({ given });
          const masters = await waitFor(() => watching.state.masters, { what: "the masters" });
          const said = (masters as MasterView[]).map(({ name, partitions }) => [name, partitions]);
          assert.deepEqual(new Map(said as [string, number[]][]), await nodesOf(stage));
          assert.deepEqual(watching.state.allowed, ["verify"]);
        });

        await t.step(
          "where the sinks cannot come by another address, no network is cut",
          async () => {
            await using elsewhere = await StageCluster.start(own, [], "192.0.2.1");
            assert.equal(elsewhere.canBeCut, false);
            assert.equal(elsewhere.sinksUrl, elsewhere.url);
            assert.notEqual(stage.servers!.redis.sinksUrl, stage.servers!.redis.url);
          },
        );
      } finally {
        await browser.close();
      }
    }
    for (const url of urls) {
      const { hostname: host, port } = new URL(url);
      await assert.rejects(askNode({ host, port: Number(port), url }, "PING"));
    }
  },
});

Deno.test("--cluster is refused where somebody else's servers are asked for, in one line", async () => {
  // It is not even read.
  const config = `${testFolder("stage")}/config.yaml`;
  const cases: [args: string[], env: Record<string, string>, by: string][] = [
    [["--given"], {}, "--given"],
    [["--control"], {}, "--control"],
    [["--config", config], {}, "--config"],
    [[], { REDIS_URL: "redis://:secret@127.0.0.1:1" }, "REDIS_URL"],
    [[], { DATABASE_URL: "postgresql://a:secret@127.0.0.1:1/c" }, "DATABASE_URL"],
  ];
  await Promise.all(cases.map(async ([args, env, by]) => {
    const unset = { REDIS_URL: "", DATABASE_URL: "", NO_COLOR: "1" };
    await using task = startTask(["stage", "--cluster", ...args], { ...unset, ...env });
    assert.equal((await task.status).code, 1, task.output());
    assert.equal(
      task.errors().trim(),
      `--cluster is for servers of the stage's own, and ${by} names others: leave out one of them`,
    );
    assert.equal(task.output(), task.errors());
  }));
});
