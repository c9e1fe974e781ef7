/**
 * Pictures of the stage's page in each state, in both sizes and themes, to look at: out/stage/*.png
 *
 *     deno task screenshots [state …]
 */

import { Command } from "commander";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { WriteBehindError } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { ending } from "writebehind/core/ending.ts";
import type { ActionName } from "writebehind/dev/stage/actions.ts";
import { serveStage } from "writebehind/dev/stage/serve.ts";
import { Stage } from "writebehind/dev/stage/stage.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { waitFor } from "../support/servers.ts";

const SIZES = [{ width: 1366, height: 768 }, { width: 1920, height: 1080 }];
const THEMES = ["light", "dark"] as const;
const OUT = join(CHECKOUT, "out", "stage");
/** So that the chart has something to show, in ms. */
const A_WHILE = 6000;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

class Pictures {
  readonly #stage: Stage;
  readonly #page: Page;
  readonly #wanted: string[];

  constructor(stage: Stage, page: Page, wanted: string[]) {
    this.#stage = stage;
    this.#page = page;
    this.#wanted = wanted;
  }

  /** Waits for the list to say something, and a while. */
  async says(text: string | RegExp, ms = A_WHILE): Promise<void> {
    await this.#page.locator("#happened li", { hasText: text }).first().waitFor({
      timeout: 60_000,
    });
    await pause(ms);
  }

  async press(name: ActionName): Promise<void> {
    await waitFor(() => this.#stage.act(name) === null, { what: name, deadlineMs: 30_000 });
  }

  async take(state: string): Promise<void> {
    if (this.#wanted.length > 0 && !this.#wanted.includes(state)) return;
    for (const size of SIZES) {
      await this.#page.setViewportSize(size);
      for (const theme of THEMES) {
        await this.#page.emulateMedia({ colorScheme: theme });
        await pause(700);
        const path = join(OUT, `${state}-${size.width}-${theme}.png`);
        await this.#page.screenshot({ path });
      }
    }
    console.log(state);
  }
}

/** On a Redis Cluster. */
async function takeCluster(browser: Browser, wanted: string[]): Promise<void> {
  await using stage = await Stage.start({ cluster: true, rate: 1000 });
  await using served = await serveStage(stage);
  const page = await browser.newPage();
  await page.goto(served.url);
  const pictures = new Pictures(stage, page, wanted);
  await pictures.says(/owns 8 of 16/);
  await pictures.take("cluster");
  await pictures.press("killRedis");
  await pictures.says(/is back, as the replica/, 2000);
  await pictures.take("cluster-failed-over");
  await page.close();
}

async function run(): Promise<void> {
  const { args: wanted } = new Command("deno task screenshots")
    .description("pictures of the stage's page in each state, to look at: out/stage/*.png")
    .argument("[states...]", "only these, such as taken-over")
    .parse(Deno.args, { from: "user" });
  if (browserPath === undefined) {
    throw new WriteBehindError(
      "no Chromium on this machine: install it, such as by apt install chromium",
    );
  }
  await Deno.mkdir(OUT, { recursive: true });
  const browser = await launchBrowser();
  const stage = await Stage.start({ rate: 0 });
  try {
    const served = await serveStage(stage);
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.error(error));
    await page.goto(served.url);
    const pictures = new Pictures(stage, page, wanted);
    await pictures.says(/stands by/, 1000);
    await pictures.take("empty");
    stage.act("rate", 1000);
    await pause(2 * A_WHILE);
    await pictures.take("traffic");
    await pictures.press("burst");
    await pictures.press("stopPostgres");
    await pictures.says(/was stopped/);
    await pictures.take("postgres-stopped");
    await pictures.press("startPostgres");
    await pictures.says(/caught up/, 3000);
    await pictures.take("caught-up");
    await pictures.press("kill");
    await pictures.says(/kill -9/, 200);
    await pictures.take("sink-killed");
    await pictures.says(/took over/, 3000);
    await pictures.take("taken-over");
    await pictures.press("cut");
    await pictures.says(/is cut for/, 1000);
    await pictures.take("network-cut");
    await pictures.says(/is there again/, 1000);
    await pictures.press("promote");
    await pictures.says(/is the primary now/, 2000);
    await pictures.take("promoted");
    await pictures.press("killRedis");
    await pictures.says(/is back, as the replica/, 2000);
    await pictures.take("redis-killed");
    await pictures.press("poison");
    await pictures.says(/was parked/, 1500);
    await pictures.take("poisoned");
    await pictures.press("replay");
    await pictures.says(/replayed/, 1500);
    await pictures.take("replayed");
    stage.act("rate", 100_000);
    await pause(A_WHILE);
    await pictures.take("as-fast-as-possible");
    stage.act("rate", 1000);
    await pause(A_WHILE);
    await pictures.press("verify");
    await pictures.says(/verified/, 1000);
    await pictures.take("verified");
    await pictures.press("reset");
    await pictures.says(/everything is empty/, 1500);
    await pictures.take("reset");
    stage.act("rate", 1000);
    {
      // As they are shown where they are somebody else's.
      const given = { config: stage.config, configPath: undefined };
      await using watching = await Stage.start({ given });
      await using servedToo = await serveStage(watching);
      const other = await browser.newPage();
      await other.goto(servedToo.url);
      await pause(A_WHILE);
      await new Pictures(watching, other, wanted).take("given");
      await other.close();
    }
    await takeCluster(browser, wanted);
    await served[Symbol.asyncDispose]();
    await page.locator("#banner").waitFor({ timeout: 10_000 });
    await pictures.take("gone");
  } finally {
    await browser.close();
    await stage[Symbol.asyncDispose]();
  }
}

if (import.meta.main) Deno.exit(await ending(run, console.error));
