import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { loadConfig } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { runNotebook } from "writebehind/dev/jupyter/notebook.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { documentsOf, rowsOf, sorted, testPipeline } from "../support/pipeline.ts";
import { environmentOf } from "../support/processes.ts";
import { testFolder } from "../support/servers.ts";

/** In the exported page no kernel serves the panel. */
async function panelSaysThatItIsNotLive(path: string): Promise<void> {
  if (browserPath === undefined) return;
  const browser = await launchBrowser();
  try {
    const page = await browser.newPage();
    const asked = page.waitForEvent("requestfailed", (ask) => ask.url().startsWith("http:"));
    await page.goto(pathToFileURL(path).href);
    await asked;
    await page.getByText("The controls are not live").waitFor({ timeout: 10_000 });
    assert.equal(await page.locator("iframe").count(), 0);
  } finally {
    await browser.close();
  }
}

Deno.test("the notebook leaves Redis and PostgreSQL equal, also when it is run again", async (t) => {
  // The table as a new user has it: made with the columns of the configuration.
  const { entities } = await loadConfig();
  await using pipeline = await testPipeline({ entities }, { replica: true });
  for (const folder of ["", "notebooks"]) {
    await t.step(`from ${folder || "the root"}`, async () => {
      const outDir = testFolder("out");
      const titles: string[] = [];
      const run = await runNotebook(join(CHECKOUT, "notebooks", "writebehind.ipynb"), {
        outDir,
        cwd: join(CHECKOUT, folder),
        env: environmentOf(pipeline.config),
        onCell: ({ state, title }) => void (state === "done" && titles.push(title)),
      });
      assert.equal(titles.length, run.cells);

      const rows = await rowsOf(pipeline);
      assert(rows.size > 1000, `${rows.size} rows`);
      assert.deepEqual(sorted(rows), sorted(await documentsOf(pipeline)));

      assert.match(
        String(run.summary.verified),
        new RegExp(`^${rows.size} documents equal .* 0 differ$`),
      );
      assert.equal(run.summary.lag, "0 events");
      const left = [...Deno.readDirSync(outDir)].map(({ name }) => name).sort();
      assert.deepEqual(left, ["writebehind.html", "writebehind.ipynb"]);

      const html = await Deno.readTextFile(run.html);
      const charts = html.match(/<figure/g)?.length ?? 0;
      assert(charts >= 8, `${charts} charts`);
      assert.match(html, /rows × 8 columns/, "select * from sessions, as a DataFrame");
      for (const column of ["user_id", "device_type", "login_time", "last_login"]) {
        assert.match(html, new RegExp(`>${column}<`), column);
      }
      assert.doesNotMatch(html, /the column \w+ is/, "all of them are there");
      await panelSaysThatItIsNotLive(run.html);
      assert(!html.includes(`:${pipeline.config.postgresql.password}@`), "no password in the page");
    });
  }
});
