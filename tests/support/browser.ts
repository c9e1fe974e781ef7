/** A real Chromium. It is no part of the project: where there is none, tests say so by ignoring themselves. */

import { type Browser, chromium } from "playwright-core";

/** Where one is installed; `undefined` where there is none. */
export const browserPath: string | undefined = await findBrowser();

async function findBrowser(): Promise<string | undefined> {
  for (const path of ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]) {
    if (await Deno.stat(path).then(() => true, () => false)) return path;
  }
  return undefined;
}

/** Starts it, without a screen and without a word to anybody else. */
export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: browserPath!,
    args: [
      "--no-sandbox",
      "--disable-dev-shm-usage",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
