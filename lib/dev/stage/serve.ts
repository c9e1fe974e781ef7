/**
 * Serves the page on loopback, below a path that nobody can guess; its figures go out as server-sent events.
 * @module
 */

import { randomBytes } from "node:crypto";
import { COLOURS, PALETTE, type Theme } from "../../notebook/charts/theme.ts";
import { HOST } from "../servers/server.ts";
import type { ActionName } from "./actions.ts";
import type { StageMessage } from "./messages.ts";
import type { Stage } from "./stage.ts";
import page from "./page/page.html" with { type: "text" };
import style from "./page/page.css" with { type: "text" };
import script from "./page/page.js" with { type: "text" };
import chart from "./page/chart.js" with { type: "text" };
import masters from "./page/masters.js" with { type: "text" };
import labels from "../../notebook/charts/mark_labels.js" with { type: "text" };

/** A page that is served. */
export interface ServedStage extends AsyncDisposable {
  /** With the token: whoever has it may press the buttons. */
  readonly url: string;
}

/** Nothing from elsewhere; Plot writes its styles into its figures. */
const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; " +
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'",
  "cache-control": "no-store",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
};

const TYPES = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
};

/** The browser's builds of Plot and d3, from their npm packages. */
function library(name: "d3" | "@observablehq/plot", file: string): Promise<string> {
  return Deno.readTextFile(new URL(`../dist/${file}`, import.meta.resolve(name)));
}

/** The colours of the charts in notebooks, as CSS variables of each theme. */
function palette(): string {
  const variables = (theme: Theme) =>
    COLOURS.map((colour) => `--${colour}:${PALETTE[colour][theme]}`).join(";");
  return `:root{${variables("light")}}\n:root[data-theme="dark"]{${variables("dark")}}\n`;
}

/**
 * Serves a stage.
 * @param port to listen on. @default {one that is free}
 */
export async function serveStage(stage: Stage, port = 0): Promise<ServedStage> {
  const files = new Map([
    ["", [TYPES.html, page]],
    ["page.css", [TYPES.css, palette() + style]],
    ["page.js", [TYPES.js, script]],
    // In the page all files lie beside each other.
    ["chart.js", [TYPES.js, chart.replace("../../../notebook/charts/", "./")]],
    ["masters.js", [TYPES.js, masters]],
    ["mark_labels.js", [TYPES.js, labels]],
    ["d3.js", [TYPES.js, await library("d3", "d3.min.js")]],
    ["plot.js", [TYPES.js, await library("@observablehq/plot", "plot.umd.min.js")]],
  ]);
  const token = randomBytes(16).toString("hex");
  const streams = new Set<() => void>();

  const answer = (status: number, text: string, type = "text/plain; charset=utf-8") =>
    new Response(text, { status, headers: { ...HEADERS, "content-type": type } });

  const events = () => {
    let end = () => {};
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        const utf8 = new TextEncoder();
        const send = (message: StageMessage) =>
          controller.enqueue(utf8.encode(`data: ${JSON.stringify(message)}\n\n`));
        send(stage.hello);
        const silence = stage.listen(send);
        end = () => {
          streams.delete(end);
          silence();
          try {
            controller.close();
          } catch {
            // The browser was first.
          }
        };
        streams.add(end);
      },
      cancel: () => end(),
    });
    return new Response(body, { headers: { ...HEADERS, "content-type": "text/event-stream" } });
  };

  const act = async (request: Request, name: string) => {
    // A page from elsewhere that has somehow learned the address may still not press buttons.
    const origin = request.headers.get("origin");
    if (origin !== null && origin !== new URL(request.url).origin) {
      return answer(403, "not from here");
    }
    // Most buttons send no value, and those that do refuse one that is none.
    const { value = 0 } = await request.json().catch(() => ({})) as { value?: number };
    const refused = stage.act(name as ActionName, Number(value));
    return refused === null ? answer(202, "begun") : answer(409, refused);
  };

  const server = Deno.serve({ hostname: HOST, port, onListen() {} }, (request) => {
    // A request may name a whole address, which need not be one.
    const url = URL.parse(request.url);
    if (url === null) return answer(404, "not found");
    const { pathname, host } = url;
    const [, given, ...rest] = pathname.split("/");
    // Another name for this address would be a page from elsewhere that looks at what is here.
    if (given !== token || host !== `${HOST}:${server.addr.port}`) return answer(404, "not found");
    const path = rest.join("/");
    if (request.method === "POST" && rest[0] === "act") return act(request, rest[1] ?? "");
    if (request.method !== "GET") return answer(405, "not allowed");
    if (path === "events") return events();
    const file = files.get(path);
    return file ? answer(200, file[1]!, file[0]) : answer(404, "not found");
  });

  return {
    url: `http://${HOST}:${server.addr.port}/${token}/`,
    [Symbol.asyncDispose]: async () => {
      for (const end of [...streams]) end();
      await server.shutdown();
    },
  };
}
