/** A figure: its caption and legend as HTML, with pictures that Plot draws under each other. */

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { COLOUR, type Colour, escapeHtml, STYLE } from "./theme.ts";

/** The width of each picture, in pixels. */
export const WIDTH = 700;

// Plot draws with any DOM that it is given; this one needs no browser.
const document = parseHTML("<!doctype html><html></html>").document as unknown as Document;

/** One line of a legend: what a colour stands for, with its newest value. */
export interface Key {
  colour: Colour;
  label: string;
  value?: string;
  /** Whether the line is dashed. */
  dashed?: boolean;
}

/** What a figure says besides its pictures. */
export interface Caption {
  title: string;
  /** What is measured, with units. */
  subtitle: string;
  legend?: Key[];
}

/** Draws one picture; `label` is what is read out in its place. */
export function picture(label: string, options: Plot.PlotOptions): string {
  const svg = Plot.plot({
    document,
    width: WIDTH,
    // One class for all, so that an updated picture is byte for byte the same where the data is.
    className: "writebehind-plot",
    ...options,
    style: {
      fontFamily: "system-ui, sans-serif",
      fontSize: "12px",
      background: "transparent",
      "--plot-background": "transparent",
      ...(typeof options.style === "object" ? options.style : {}),
    } as Plot.PlotOptions["style"],
  });
  return labelled(svg.outerHTML, label);
}

/** Names an SVG for those who cannot see it. Written here: the DOM's own text of an attribute is not XML. */
export function labelled(svg: string, label: string): string {
  return svg.replace("<svg", () => `<svg role="img" aria-label="${escapeHtml(label)}"`);
}

/** Puts pictures under one caption. */
export function figure({ title, subtitle, legend = [] }: Caption, ...pictures: string[]): string {
  const keys = legend.map(({ colour, label, value, dashed }) =>
    `<span class="key${dashed ? " dashed" : ""}" style="--key:${COLOUR[colour]}">${
      escapeHtml(label)
    }` +
    (value === undefined ? "" : `<b>${escapeHtml(value)}</b>`) + "</span>"
  );
  return `${STYLE}<figure class="writebehind" style="max-width:${WIDTH}px" aria-label="${
    escapeHtml(`${title}: ${subtitle}`)
  }"><figcaption><span class="title">${escapeHtml(title)}</span><span class="subtitle">${
    escapeHtml(subtitle)
  }</span>${keys.length > 0 ? `<div class="legend">${keys.join("")}</div>` : ""}</figcaption>${
    pictures.join("")
  }</figure>`;
}

/** The mark of a chart that has nothing to show yet. */
export function waiting(empty: boolean): Plot.Markish[] {
  return empty
    ? [Plot.text(["waiting for data"], { frameAnchor: "middle", fontSize: 14, fillOpacity: 0.7 })]
    : [];
}
