/** The stage's page in an output cell: a page from elsewhere shows it, and its buttons write. */

import assert from "node:assert/strict";
import { readFigures } from "writebehind";
import { controls } from "writebehind/dev/stage/controls.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

Deno.test({
  name:
    "controls in an output cell, in a browser: a burst is written, PostgreSQL is left alone, and their end is told",
  ignore: browserPath === undefined,
  async fn() {
    await using pipeline = await testPipeline();
    const { redis, pool, config } = pipeline;
    await using shown = await controls(config);
    await using notebook = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      () => new Response(shown.html, { headers: { "content-type": "text/html" } }),
    );
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage({ viewport: { width: 1366, height: 768 } });
      await page.goto(`http://localhost:${notebook.addr.port}/`);
      const cell = page.frameLocator("iframe");
      await cell.locator("[data-action=burst]").click({ timeout: 20_000 });
      await waitFor(
        async () => (await readFigures(redis, pool, config, "session")).written >= 5000,
        { what: "the burst", deadlineMs: 20_000 },
      );
      await cell.locator("#tile-lag .value", { hasText: "5,000" }).waitFor({ timeout: 10_000 });
      assert.equal(await cell.locator("[data-action=kill]").isVisible(), false);
      const line = page.getByText("The controls are not live");
      assert.equal(await line.isVisible(), false);
      await shown[Symbol.asyncDispose]();
      await line.waitFor({ timeout: 10_000 });
      assert.equal(await page.locator("iframe").count(), 0, "no dead frame is left");
    } finally {
      await browser.close();
    }
  },
});
