/** The page of the stage in a browser. */

import type { Locator, Page } from "playwright-core";
import type { ActionName } from "writebehind/dev/stage/actions.ts";
import type { SinkView } from "writebehind/dev/stage/sinks.ts";
import type { Stage } from "writebehind/dev/stage/stage.ts";
import { launchBrowser } from "./browser.ts";
import { waitFor } from "./servers.ts";

/** Waits until one of the stage's sinks owns its partitions and the other stands by. */
export async function ownerBesideStandby(stage: Stage): Promise<SinkView> {
  return await waitFor(() => {
    const { sinks } = stage.state;
    const owner = sinks.find(({ state }) => state === "owner");
    return sinks.every((sink) => sink === owner || sink.state === "standby") ? owner : undefined;
  }, { what: "an owner and a standby", deadlineMs: 20_000 });
}

/** What the page shows, as a person finds it. */
export class StagePage implements AsyncDisposable {
  readonly page: Page;

  constructor(page: Page) {
    this.page = page;
  }

  /** Opens it in a browser of its own, which is closed at the end of the scope. */
  static async open(url: string): Promise<StagePage> {
    const browser = await launchBrowser();
    try {
      const page = await browser.newPage({ viewport: { width: 1366, height: 768 } });
      await page.goto(url);
      return new StagePage(page);
    } catch (error) {
      await browser.close();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.context().browser()!.close();
  }

  button(name: ActionName): Locator {
    return this.page.locator(`[data-action=${name}]`);
  }

  async click(name: ActionName): Promise<void> {
    await this.button(name).click({ timeout: 15_000 });
  }

  /** Waits for a line in the list of what happened. */
  async says(text: RegExp, deadlineMs = 20_000): Promise<void> {
    const lines = this.page.locator("#happened li");
    await lines.filter({ hasText: text }).first().waitFor({ timeout: deadlineMs })
      .catch(async (error) => {
        const said = (await lines.allInnerTexts()).join("\n  ");
        throw new Error(`the page says nothing like ${text}; it says\n  ${said}`, { cause: error });
      });
  }

  async big(tile: string): Promise<string> {
    return await this.page.locator(`#tile-${tile} .value`).innerText();
  }

  /** The line under the number. */
  async small(tile: string): Promise<string> {
    return await this.page.locator(`#tile-${tile} .small`).innerText();
  }

  async number(tile: string): Promise<number> {
    return Number((await this.big(tile)).replaceAll(",", ""));
  }

  /** Waits for what is said of a server: a sample has to be taken first. */
  async nodeSays(name: string, text: RegExp): Promise<void> {
    await waitFor(async () => text.test(await this.node(name)), {
      what: `the page to say ${text} of ${name}`,
      deadlineMs: 10_000,
    });
  }

  async node(name: string): Promise<string> {
    return await this.page.locator(`#node-${name}`).innerText();
  }

  /** What cannot be read, at the size that the page has now: cut, covered by others, or smaller than `least` px. */
  async unreadable(least: number): Promise<string[]> {
    return await this.page.evaluate((least) => {
      const found: string[] = [];
      const edge = innerWidth - parseFloat(getComputedStyle(document.body).paddingRight) + 1;
      const isShown = (element: Element) => element.getClientRects().length > 0;
      const all = [...document.body.querySelectorAll("*")].filter(isShown);
      for (const element of all) {
        const own = [...element.childNodes].some((node) =>
          node.nodeType === Node.TEXT_NODE && node.textContent!.trim() !== ""
        );
        if (!own || element.closest("option, title, style")) continue;
        const size = parseFloat(getComputedStyle(element).fontSize);
        if (size < least) found.push(`${size} px: ${element.textContent}`);
        const { left, right, top, bottom } = element.getBoundingClientRect();
        const isListed = element.closest("#happened ol") !== null; // which scrolls
        const inside = left >= 0 && right <= edge && top >= 0 && bottom <= innerHeight;
        if (!inside && !isListed) found.push(`outside: ${element.textContent}`);
      }
      const boxes =
        "#flow li, #masters :is(li, span), nav button, #tiles :is(p, h2), footer button, #rate, figcaption, h1";
      for (const box of document.querySelectorAll(boxes)) {
        const { scrollWidth, clientWidth, scrollHeight, clientHeight, textContent } = box;
        // An inline box has no size of its own; a line may be a pixel higher than its text.
        if (clientWidth === 0) continue;
        if (scrollWidth > clientWidth || scrollHeight > clientHeight + 2) {
          found.push(`cut: ${textContent!.trim()}`);
        }
      }
      const texts =
        "header :is(h1, li, button), #tiles article, figcaption > *, .plot text, footer > *";
      const rects = [...document.querySelectorAll(texts)].filter(isShown)
        .map((element) => ({ element, rect: element.getBoundingClientRect() }));
      rects.forEach(({ element: one, rect: a }, index) => {
        for (const { element: other, rect: b } of rects.slice(index + 1)) {
          const isApart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top + 3 ||
            b.bottom <= a.top + 3;
          if (!isApart && !one.contains(other)) {
            found.push(`${one.textContent!.trim()} on ${other.textContent!.trim()}`);
          }
        }
      });
      return found;
    }, least);
  }
}
