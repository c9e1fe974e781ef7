/** The words of marks: never on each other, never under another mark's line, never outside of the picture. */

import fc from "fast-check";
import assert from "node:assert/strict";
import type { Sample } from "writebehind";
import { dashboard } from "writebehind/notebook/charts/charts.ts";
import { placeLabels, widthOf } from "writebehind/notebook/charts/mark_labels.js";
import { Marks, marksIn } from "writebehind/notebook/charts/marks.ts";
import { browserPath, launchBrowser } from "../support/browser.ts";

const ROOM = { left: -70, right: 620, rows: 4 };

Deno.test("placeLabels: no two overlap, no line crosses words, all are inside, no row is empty", () => {
  const mark = fc.record({ x: fc.double({ min: 0, max: 600, noNaN: true }), width: fc.nat(260) });
  fc.assert(fc.property(fc.array(mark, { maxLength: 30 }), (unsorted) => {
    const marks = unsorted.toSorted((a, b) => a.x - b.x);
    const places = placeLabels(marks, ROOM);
    const placed = places.flatMap((place, index) => place ? [{ ...place, ...marks[index]! }] : []);
    for (const [index, one] of placed.entries()) {
      assert(one.begin >= ROOM.left && one.end <= ROOM.right && one.height < ROOM.rows);
      for (const other of placed.slice(index + 1)) {
        if (one.height === other.height) {
          assert(one.end <= other.begin || other.end <= one.begin, "words on words");
          continue;
        }
        const [low, high] = one.height < other.height ? [one, other] : [other, one];
        assert(high.x <= low.begin || high.x >= low.end, "a line through words");
      }
    }
    const heights = new Set(placed.map(({ height }) => height));
    assert.deepEqual([...heights].sort(), Array.from(heights, (_, row) => row), "an empty row");
    // The newest has words wherever they fit at all.
    const newest = marks.at(-1);
    if (newest && (newest.x + newest.width <= ROOM.right || newest.x - newest.width >= ROOM.left)) {
      assert(places.at(-1));
    }
  }));
});

const START = new Date(2026, 10, 23, 14, 16, 5).getTime();

function samplesOf(count: number): Sample[] {
  return Array.from({ length: count }, (_, second) => ({
    at: new Date(START + 1000 * second),
    ...{ redis_success: 0, redis_fail: 0, redis_retry: 0, postgres_success: 0, postgres_fail: 0 },
    ...{ writtenPerSecond: 100, appliedPerSecond: 90, written: 100 * second, applied: 90 * second },
    ...{ lagEvents: 10, lagSeconds: 1, parked: 0, owner: null, targetAnswers: true },
    ...{ freshnessP50Ms: 2, freshnessP99Ms: 13 },
  }));
}

/** Many in a short time, as the last dashboard of a notebook full of faults has them. */
const CROWD: [number, string][] = [
  [1, "sink 12345 took over"],
  [11, "PostgreSQL stopped"],
  [11.2, "failing: transient"],
  [17, "PostgreSQL started"],
  [17.6, "recovered"],
  [24, "a document parked"],
  [24.1, "parked"],
  [27, "replayed"],
  [30, "sink 12345 killed ×2"],
  [30.4, "sink 12388 took over"],
  [31, "MMMM WWWW @@@@"],
  [38, "stream went back"],
  [38.5, "resent"],
  [39, "verified: none lost"],
];

Deno.test("marks of a later time than the newest sample's are not drawn", () => {
  const marks = new Marks();
  const at = (second: number) => new Date(START + 1000 * second);
  marks.mark("of this chart", at(10));
  marks.mark("of the cell that follows", at(10.1));
  assert.deepEqual(marksIn(samplesOf(11), marks.all).map(({ text }) => text), ["of this chart"]);
});

Deno.test({
  name: "in a browser, the words of a dashboard's marks keep clear of each other and inside",
  ignore: browserPath === undefined,
  async fn() {
    const marks = new Marks();
    for (const [second, text] of CROWD) marks.mark(text, new Date(START + 1000 * second));
    const browser = await launchBrowser();
    try {
      for (const width of [700, 1366, 1920]) {
        const page = await browser.newPage({ viewport: { width, height: 900 } });
        await page.setContent(dashboard(samplesOf(40), marks));
        const pictures = await page.locator("svg:has(.mark)").all();
        assert.equal(pictures.length, 4);
        for (const picture of pictures) {
          const frame = (await picture.boundingBox())!;
          const boxes = await picture.locator(".mark text").evaluateAll((texts) =>
            texts.map((text) => {
              const { left, right, top, bottom } = text.getBoundingClientRect();
              return { text: text.textContent, left, right, top, bottom };
            })
          );
          assert(boxes.length >= 11, `${boxes.length} of ${CROWD.length} have words`);
          for (const [index, one] of boxes.entries()) {
            assert(one.left >= frame.x && one.right <= frame.x + frame.width, `${one.text} is cut`);
            assert(one.top >= frame.y, `${one.text} is cut`);
            const needs = (one.right - one.left) * 700 / frame.width;
            assert(needs <= widthOf(one.text, 16), `${one.text} is wider than it is taken for`);
            for (const other of boxes.slice(index + 1)) {
              // As many px apart as letters need, on a line; rows may touch.
              const apart = one.right + 3 <= other.left || other.right + 3 <= one.left ||
                one.bottom <= other.top + 3 || other.bottom <= one.top + 3;
              assert(apart, `${one.text} touches ${other.text} at ${width}`);
            }
          }
        }
        await page.close();
      }
    } finally {
      await browser.close();
    }
  },
});
