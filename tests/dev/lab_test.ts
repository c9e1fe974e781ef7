import assert from "node:assert/strict";
import { join } from "node:path";
import type { Page } from "playwright-core";
import {
  configWith,
  connectRedis,
  loadConfig,
  openTarget,
  readFigures,
  resolveServers,
  serverOverrides,
} from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

/** The project's notebooks, which JupyterLab only copies. */
async function notebooks(): Promise<string[]> {
  const folder = join(CHECKOUT, "notebooks");
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  return await Promise.all(
    names.map((name) => Deno.readTextFile(join(folder, name)).catch(() => name)),
  );
}

/** A click in the panel writes 5,000 documents, far more than the notebook's own traffic in that time. */
async function burst(page: Page): Promise<void> {
  const loaded = await loadConfig();
  const config = configWith(loaded, serverOverrides(await resolveServers(loaded)));
  await using redis = await connectRedis(config);
  await using target = await openTarget(config);
  const written = async () => (await readFigures(redis, target, config, "session")).written;
  const cell = page.frameLocator(`iframe[title="writebehind's controls"]`);
  const button = cell.locator("[data-action=burst]");
  await button.waitFor({ timeout: 60_000 });
  const [before, since] = [await written(), performance.now()];
  // Not by the mouse: outputs below move the panel, and a browser does not draw a frame that is out of sight.
  await button.dispatchEvent("click");
  const own = () => 1.5 * (performance.now() - since);
  await waitFor(async () => await written() - before - own() > 3000, {
    what: "the burst",
    deadlineMs: 20_000,
  });
}

Deno.test({
  name:
    "in JupyterLab, in a browser, every cell runs, the live chart moves, and a click in the panel writes",
  ignore: browserPath === undefined,
  async fn() {
    const before = await notebooks();
    await using lab = startTask(["lab", "--no-browser"], { NO_COLOR: "1" });
    const url = await waitFor(
      () => lab.output().match(/http:\/\/127\.0\.0\.1:\d+\/lab\/\S*token=\w+/)?.[0],
      { what: "JupyterLab's address", deadlineMs: 60_000 },
    ).catch((error) => {
      throw new Error(`${error.message}\n${lab.output()}`);
    });
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
      await page.goto(url);
      await page.waitForSelector(".jp-NotebookPanel .jp-CodeCell", { timeout: 60_000 });
      await page.getByText("Deno | Idle").waitFor({ timeout: 30_000 });
      await page.getByRole("menuitem", { name: "Run", exact: true }).click();
      await page.locator('[data-command="runmenu:run-all"]').click();
      const charts = page.locator('.jp-OutputArea-output figure:has-text("Flow and lag")');
      await charts.first().waitFor({ timeout: 60_000 });
      // The newest: those above stand still once a cell below has its own.
      let seen = { count: 0, html: "" };
      await waitFor(async () => {
        const count = await charts.count();
        const html = await charts.nth(count - 1).innerHTML();
        const moved = count === seen.count && html !== seen.html;
        seen = { count, html };
        return moved;
      }, { what: "the chart to move", deadlineMs: 30_000 });
      await burst(page);
      await page.getByText(/stopped \[/).waitFor({ timeout: 90_000 });
      const errors = page.locator(
        '.jp-OutputArea-output[data-mime-type*="stderr"], .jp-RenderedText .ansi-red-fg',
      );
      await page.getByText("The controls are not live").waitFor({ timeout: 10_000 });
      assert.equal(await page.locator("iframe[title^=writebehind]").count(), 0, "a dead frame");
      assert.equal(await errors.count(), 0, (await errors.allInnerTexts()).join("\n"));
      const shot = Deno.env.get("WRITEBEHIND_SCREENSHOT");
      if (shot) await page.screenshot({ path: shot });
    } finally {
      await browser.close();
      // Also where something failed: JupyterLab would stay behind a command that is killed, and keep its output open.
      lab.kill("SIGINT");
      await lab.status;
    }
    assert.deepEqual(await notebooks(), before);
    const { code } = await lab.status;
    assert([0, 130].includes(code), lab.output());
  },
});
