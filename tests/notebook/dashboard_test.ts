import assert from "node:assert/strict";
import { insertDocument, Sampler, verify } from "writebehind";
import { dashboard } from "writebehind/notebook/charts/charts.ts";
import { Marks } from "writebehind/notebook/charts/marks.ts";
import { verifyOnClick } from "writebehind/notebook/verify_on_click.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";
import { drain, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

Deno.test({
  name:
    "in a browser, a click verifies, the tiles say what verify says, and a chart left alone says so",
  ignore: browserPath === undefined,
  async fn() {
    await using pipeline = await testPipeline();
    const { redis, pool, config } = pipeline;
    for (let n = 0; n < 20; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
    await drain(pipeline);
    const sampler = new Sampler(redis, pool, config);
    await sampler.sample();
    const marks = new Marks();
    const clicks = verifyOnClick(redis, pool, config, "session", marks);
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
      await page.setContent(dashboard(sampler.samples, marks));
      const tile = page.locator(".tile", { hasText: "lost" });
      const click = async (then: RegExp) => {
        await tile.getByRole("button").click();
        await waitFor(async () => then.test(await tile.innerText()), { what: String(then) });
      };
      await click(/\n0\s+of 20 documents, verified at \d\d:\d\d:\d\d/);
      await pool.query("DELETE FROM sessions WHERE id = 'd3'");
      await click(/\n1\s+of 20 documents/);
      assert.equal(marks.verified?.lost, 1);
      assert.deepEqual(marks.all.map(({ text }) => text), [
        "verified: none lost",
        "verified: 1 lost",
      ]);
      // Drawn anew, it is the same; and the figures are those of a verify.
      await page.setContent(dashboard(sampler.samples, marks));
      assert.match(await tile.innerText(), /\n1\s+of 20 documents/);
      const { documents } = await verify(redis, pool, config, "session");
      const shown = await page.locator(".tile b").allInnerTexts();
      assert.deepEqual(shown, [String(documents), "20", "0", "0", "1"]);

      const [left, right] = await page.locator("figure").all();
      const boxes = [(await left!.boundingBox())!, (await right!.boundingBox())!];
      assert(
        boxes[0]!.width > 700 && boxes[1]!.x > boxes[0]!.width,
        "two in a row, as wide as there is room",
      );
      const stopped = page.locator(".stopped").first();
      const opacity = () => stopped.evaluate((badge) => getComputedStyle(badge).opacity);
      assert.equal(await opacity(), "0");
      await page.evaluate(() =>
        document.getAnimations().forEach((animation) => animation.finish())
      );
      assert.equal(await opacity(), "1");
      assert.match(await stopped.innerText(), /^stopped at \d\d:\d\d:\d\d$/);

      await clicks[Symbol.asyncDispose]();
      await click(/its process is gone/);
    } finally {
      await browser.close();
      await clicks[Symbol.asyncDispose]();
    }
  },
});

Deno.test("clicks at once share a verify, who does not know the path is told nothing, and a verify that fails says why", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  const marks = new Marks();
  await using _clicks = verifyOnClick(redis, pool, config, "session", marks);
  const ask = () => fetch(marks.verifyUrl!, { method: "POST" });
  const both = await Promise.all([ask(), ask()]);
  const [one, other] = await Promise.all(both.map((answer) => answer.json()));
  assert.deepEqual(one, other);
  assert.match(one.note, /^of 0 documents, verified at \d\d:\d\d:\d\d$/);
  assert.deepEqual(marks.all.map(({ text, times }) => [text, times]), [["verified: none lost", 1]]);
  const { verified } = marks;
  const { origin } = new URL(marks.verifyUrl!);
  const answer = await fetch(`${origin}/verify`, { method: "POST" });
  assert.deepEqual([answer.status, await answer.text()], [404, "not here\n"]);
  await pool.query("DROP TABLE sessions");
  const failed = await ask();
  assert.equal(failed.status, 503);
  assert.match(await failed.text(), /sessions/);
  assert.equal(marks.verifying, false);
  assert.equal(marks.all.at(-1)!.text, "verify failed");
  assert.equal(marks.verified, verified, "the last figure stands with its time");
});
