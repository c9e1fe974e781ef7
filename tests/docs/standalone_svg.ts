/** Charts as pictures that stand alone, for a README or a slide. */

import { parseHTML } from "linkedom";
import { labelled, WIDTH } from "writebehind/notebook/charts/figure.ts";
import {
  COLOUR,
  COLOURS,
  escapeHtml,
  PALETTE,
  type Theme,
} from "writebehind/notebook/charts/theme.ts";

const TEXT = { light: "#1f2328", dark: "#e6e9ee" } as const;
const BACKGROUND = { light: "#ffffff", dark: "#15181d" } as const;

const MARGIN = 16;
const TITLE_HEIGHT = 28;
const LEGEND_HEIGHT = 26;
const GAP = 14;
/** About the width of a character of our captions, in pixels. */
const CHARACTER = 8.5;

/**
 * Turns a chart into one SVG with its captions and legends, in the fixed colours of one theme.
 * @param chart what a chart function or the dashboard returned
 */
export function standaloneSvg(chart: string, theme: Theme): string {
  const { document } = parseHTML(`<!doctype html><html><body>${chart}</body></html>`);
  const parts: string[] = [];
  let y = MARGIN;
  for (const figure of document.querySelectorAll("figure")) {
    const textOf = (selector: string) =>
      escapeHtml(figure.querySelector(selector)?.textContent ?? "");
    y += TITLE_HEIGHT;
    parts.push(
      `<text x="${MARGIN}" y="${y - 6}"><tspan font-size="18" font-weight="600">` +
        `${textOf(".title")}</tspan><tspan dx="9" opacity=".75">${
          textOf(".subtitle")
        }</tspan></text>`,
    );
    let x = MARGIN;
    const keys = [...figure.querySelectorAll(".key")];
    for (const key of keys) {
      const text = key.textContent;
      const width = 42 + CHARACTER * text.length;
      if (x > MARGIN && x + width > MARGIN + WIDTH) {
        x = MARGIN;
        y += LEGEND_HEIGHT;
      }
      const value = key.querySelector("b")?.textContent ?? "";
      const label = text.slice(0, text.length - value.length);
      const colour = escapeHtml(key.getAttribute("style")?.replace(/^--key:/, "") ?? "");
      parts.push(
        `<line x1="${x}" x2="${x + 12}" y1="${y + 9}" y2="${y + 9}" stroke="${colour}" ` +
          `stroke-width="4"${key.classList.contains("dashed") ? ' stroke-dasharray="5 2"' : ""}/>`,
        `<text x="${x + 18}" y="${y + 13}">${escapeHtml(label)}` +
          `<tspan dx="5" font-weight="600">${escapeHtml(value)}</tspan></text>`,
      );
      x += width;
    }
    if (keys.length > 0) y += LEGEND_HEIGHT;
    for (const svg of figure.querySelectorAll("svg")) {
      svg.setAttribute("x", String(MARGIN));
      svg.setAttribute("y", String(y));
      const label = svg.getAttribute("aria-label") ?? "";
      for (const name of ["role", "aria-label"]) svg.removeAttribute(name);
      parts.push(labelled(svg.toString(), label));
      y += Number(svg.getAttribute("height"));
    }
    y += GAP;
  }
  const width = WIDTH + 2 * MARGIN;
  return withFixedColours(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" ` +
      `viewBox="0 0 ${width} ${y}" font-family="system-ui, sans-serif" font-size="15" ` +
      `fill="currentColor" color="currentColor"><rect width="100%" height="100%" ` +
      `fill="${BACKGROUND[theme]}" stroke="none"/>${parts.join("")}</svg>`,
    theme,
  );
}

/** Many viewers know no CSS variables. */
function withFixedColours(svg: string, theme: Theme): string {
  for (const colour of COLOURS) svg = svg.replaceAll(COLOUR[colour], PALETTE[colour][theme]);
  return svg.replaceAll("currentColor", TEXT[theme]);
}
