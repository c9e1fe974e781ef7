/** No figure on the stage's page contradicts verify, the servers, or the ledger of what was acknowledged. */

import assert from "node:assert/strict";
import {
  connectRedis,
  dummyDataWorker,
  type Figures,
  listDeadLetters,
  readFigures,
  verify,
} from "writebehind";
import type { StageMessage } from "writebehind/dev/stage/messages.ts";
import { Happenings } from "writebehind/dev/stage/happened.ts";
import { Notices } from "writebehind/dev/stage/notices.ts";
import { BURST } from "writebehind/dev/stage/actions.ts";
import { serveStage } from "writebehind/dev/stage/serve.ts";
import { Stage } from "writebehind/dev/stage/stage.ts";
import { browserPath } from "../support/browser.ts";
import { waitFor } from "../support/servers.ts";
import { ownerBesideStandby, StagePage } from "../support/stage_page.ts";

/** What a page that is opened now is sent first. */
async function hello(url: string): Promise<Extract<StageMessage, { kind: "hello" }>> {
  const { body } = await fetch(`${url}events`);
  const reader = body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n\n")) text += (await reader.read()).value ?? "";
  await reader.cancel();
  const message = JSON.parse(text.slice("data: ".length, text.indexOf("\n\n"))) as StageMessage;
  assert(message.kind === "hello");
  return message;
}

/** Breaks everything that the page can break, while documents are written. */
async function breakEverything(stage: Stage, shown: StagePage): Promise<void> {
  await shown.click("burst");
  await shown.says(/a burst of/);
  await shown.click("stopPostgres");
  await waitFor(async () => await shown.number("lag") > BURST, {
    what: "the burst to wait",
    deadlineMs: 60_000,
  });
  await shown.click("startPostgres");
  await shown.says(/PostgreSQL runs again/);
  await ownerBesideStandby(stage);
  await shown.click("kill");
  await shown.says(/took over/);
  await shown.click("poison");
  await shown.says(/document broken-1 was parked/);
  await shown.click("replay");
  await shown.says(/parked documents replayed: 1/);
  await shown.click("promote");
  await shown.says(/is the primary now/);
  await shown.click("cut");
  await shown.says(/the network is there again/);
  // Two that stay parked, of other documents than the first.
  await shown.click("poison");
  await waitFor(async () => await shown.number("parked") === 1, { what: "the first parked" });
  await shown.click("poison");
  await waitFor(async () => await shown.number("parked") === 2, { what: "the second parked" });
}

Deno.test("given servers may get other partitions, and what moves with them is no news", () => {
  const told = new Happenings(() => {});
  const notices = new Notices(told, 1);
  const figures = (...partitions: [stream: string, owner: string, parked: number][]): Figures => {
    const sums = { applied: 0, lag: 0, lagSeconds: 0, written: 0 };
    const parts = partitions.map(([stream, owner, parked], partition) => (
      { partition, stream, owner, offset: "0-0", ...sums, parked }
    ));
    const parked = parts.reduce((sum, one) => sum + one.parked, 0);
    return { at: 0, partitions: parts, ...sums, parked };
  };
  const up = { redis: true, target: true };
  const see = (seen: Figures) => notices.givenServers(seen, up, "postgresql");
  see(figures(["s", "a", 5]));
  see(figures(["s0", "a", 2], ["s1", "b", 3]));
  see(figures(["s0", "a", 5], ["s1", "b", 0])); // under way to one
  see(figures(["s", "a", 5]));
  assert.deepEqual(told.entries, []);
  see(figures(["s", "a", 6]));
  assert.deepEqual(told.entries.map(({ text }) => text), ["1 event of s parked"]);
});

Deno.test("whoever takes what a killed sink owned is told, and only then the target has to catch up", () => {
  const said = (partitions: number, see: (notices: Notices) => void) => {
    const told = new Happenings(() => {});
    see(new Notices(told, partitions));
    return told.entries.map(({ text }) => text.replace(/\d+\.\d s/, "… s"));
  };
  const kill = (notices: Notices, name: string, ...owned: string[]) =>
    notices.killed(name, performance.now(), new Set(owned));

  assert.deepEqual(
    said(1, (notices) => {
      notices.claimed("A", "s");
      kill(notices, "A", "s");
      notices.claimed("B", "s");
    }),
    ["sink A owns s", "sink B took over after … s"],
  );
  // The other still waited for its next attempt when the killed one was back.
  assert.deepEqual(
    said(1, (notices) => {
      notices.claimed("A", "s");
      kill(notices, "A", "s");
      notices.claimed("A", "s");
      notices.claimed("B", "s");
    }),
    ["sink A owns s", "sink A (back again) took over after … s", "sink B took over"],
  );
  assert.deepEqual(
    said(2, (notices) => {
      notices.claimed("A", "s0");
      notices.claimed("A", "s1");
      kill(notices, "A", "s0", "s1");
      notices.claimed("B", "s0");
      notices.claimed("A", "s1");
    }),
    ["sinks A (back again) and B took over 2 partitions after … s"],
  );
  // It had lost the partition before, and had not said so yet.
  assert.deepEqual(
    said(1, (notices) => {
      notices.claimed("A", "s");
      notices.claimed("B", "s");
      kill(notices, "A", "s");
      notices.claimed("B", "s");
    }),
    ["sink A owns s", "sink B took over"],
  );
});

Deno.test({
  name: "after faults, every figure on the page is the ledger's, the servers' and verify's",
  ignore: browserPath === undefined,
  async fn() {
    await using stage = await Stage.start();
    await using served = await serveStage(stage);
    await using shown = await StagePage.open(served.url);
    const { page } = shown;
    await shown.says(/owns stream:session/);
    await shown.says(/stands by/);

    const stop = new AbortController();
    // What is not known to be written is asked for again, under the same request: the ledger is exact.
    await using redis = await connectRedis(stage.config);
    const traffic = dummyDataWorker(redis, stage.config, "session", {
      ...{ rate: 300, duration_seconds: 300, seed: 5, concurrency: 8 },
      ...{ requestIds: true, signal: stop.signal },
    });
    await breakEverything(stage, shown).finally(() => stop.abort());
    // While Redis hands over, writes are refused, which are not in the ledger.
    const { inserted, updated, deleted } = await traffic;
    const ledger = inserted + updated + deleted + BURST + 3;

    const figures = () => readFigures(stage.redis, stage.target, stage.config, "session");
    await waitFor(async () => (await figures()).lag === 0, { what: "nothing to wait for" });
    for (const tile of ["written", "applied", "lag"]) {
      await waitFor(async () => await shown.big(tile) === "0", { what: `silence: ${tile}` });
    }
    assert.equal(await shown.big("freshness"), "–", "at once");
    await shown.click("verify");
    await waitFor(async () => await shown.big("lost") !== "?", { what: "the page's verify" });
    const report = await verify(stage.redis, stage.target, stage.config, "session");
    let parked = 0;
    for await (const _ of listDeadLetters(stage.target, stage.config, "session")) parked++;
    const servers: Figures = await figures();
    const { written, applied, lag, lagSeconds } = servers;
    assert.deepEqual({ written, applied, lag, lagSeconds, parked: servers.parked }, {
      ...{ written: ledger, applied: ledger, lag: 0, lagSeconds: 0, parked },
    });
    assert.deepEqual([parked, report.counts.parked], [2, 2]);

    // The tiles, and what stands under each.
    const inAll = `${ledger.toLocaleString("en")} in all`;
    const tiles: Record<string, [string, RegExp | string]> = {
      written: ["0", inAll],
      applied: ["0", inAll],
      lag: ["0", "nothing waits"],
      freshness: ["–", "nothing is applied now"],
      parked: [String(parked), "in the dead letter"],
      lost: [
        String(report.counts.mismatches),
        new RegExp(`^\\d\\d:\\d\\d:\\d\\d, of ${report.documents.toLocaleString("en")}$`),
      ],
    };
    const names = await page.locator("#tiles article").evaluateAll((all) =>
      all.map(({ id }) => id.slice("tile-".length))
    );
    assert.deepEqual(names, Object.keys(tiles));
    for (const [tile, [big, small]] of Object.entries(tiles)) {
      assert.equal(await shown.big(tile), big, tile);
      const under = await shown.small(tile);
      if (typeof small === "string") assert.equal(under, small, tile);
      else assert.match(under, small, tile);
    }
    assert.equal(report.counts.mismatches, 0);
    assert.match(await shown.node("writers"), /^Writers\s*0 \/s asked for$/);

    // The last point of each series, as it was sent and as it is drawn; and all before it.
    const { samples, state } = await hello(served.url);
    const { at: _, ...last } = samples.at(-1)!;
    assert.deepEqual(last, {
      ...{ written: ledger, applied: ledger, lag: 0, lagSeconds: 0, parked },
      ...{ writtenPerSecond: 0, appliedPerSecond: 0, freshnessP50Ms: null, freshnessP99Ms: null },
    });
    assert.deepEqual([state.verify.lost, state.verify.documents], [0, report.documents]);
    for (const [index, sample] of samples.entries()) {
      assert.equal(sample.written, sample.applied + sample.lag);
      const before = samples[index - 1];
      assert(!before || before.written <= sample.written && before.applied <= sample.applied);
    }
    // All lines of rates and lag end on the ground, at the newest sample; those of freshness have ended before.
    const ends = await page.locator(".plot").evaluateAll((plots) =>
      plots.map((plot) => {
        const { height, width } = plot.getBoundingClientRect();
        return [...plot.querySelectorAll("[aria-label=line] path")].map((path) => {
          const points = (path.getAttribute("d") ?? "").match(/[\d.]+,[\d.]+/g) ?? [];
          const [x, y] = points.at(-1)?.split(",").map(Number) ?? [0, 0];
          return { fromRight: width - x!, fromGround: height - 6 - y! };
        });
      })
    );
    const [rates, lags, ages] = ends;
    assert.deepEqual([rates!.length, lags!.length, ages!.length], [2, 1, 2]);
    for (const { fromRight, fromGround } of [...rates!, ...lags!]) {
      assert(Math.abs(fromGround) < 0.6 && fromRight < 60, JSON.stringify(ends));
    }
    assert(ages!.every(({ fromRight }) => fromRight > 30), JSON.stringify(ends));

    // And with all of these marks, whoever sits in the back row can read it.
    for (const [width, height, least] of [[1366, 768, 11], [1920, 1080, 14]] as const) {
      await page.setViewportSize({ width, height });
      await waitFor(async () => (await shown.unreadable(least)).length === 0, {
        what: "the page to be drawn for its size",
        deadlineMs: 5000,
      }).catch(async () => assert.deepEqual(await shown.unreadable(least), [], `${width} px`));
      assert(await page.locator(".mark text").count() >= 7);
    }
  },
});
