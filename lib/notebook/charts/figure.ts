/** A figure: its caption and legend as HTML, with pictures that Plot draws under each other. */

/// <reference lib="dom" />

import * as Plot from "@observablehq/plot";
import { parseHTML } from "linkedom";
import { clock } from "./scales.ts";
import { COLOUR, type Colour, escapeHtml, STYLE } from "./theme.ts";

/**
 * The width of each picture, in units of its own: it is drawn as wide as what it is in. Text of 16 units has 14 pixels or
 * more where there are 620 pixels.
 */
export const WIDTH = 700;

// Plot draws with any DOM that it is given; this one needs no browser.
const document = parseHTML("<!doctype html><html></html>").document as unknown as Document;

/** One line of a legend: what a colour stands for, with its newest value. */
export interface Key {
  colour: Colour;
  label: string;
  value?: string;
  /** Whether the line is dashed. */
  dashed?: boolean | undefined;
}

/** What a figure says besides its pictures. */
export interface Caption {
  title: string;
  /** What is measured, with units. */
  subtitle: string;
  legend?: Key[];
  /** When the newest of what it shows was measured, in a chart that goes on. */
  newest?: Date | undefined;
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
      fontSize: "16px",
      background: "transparent",
      "--plot-background": "transparent",
      ...(typeof options.style === "object" ? options.style : {}),
    } as NonNullable<Plot.PlotOptions["style"]>,
  });
  // Points are given to a tenth: a live chart is sent anew again and again. Texts are for people, and stay as they are.
  const short = (tag: string) =>
    tag.replace(/\d+\.\d\d+/g, (number) => String(+(+number).toFixed(1)));
  return labelled(svg.outerHTML.replace(/<[^>]+>/g, short), label);
}

/** Names an SVG for those who cannot see it. Written here: the DOM's own text of an attribute is not XML. */
export function labelled(svg: string, label: string): string {
  return svg.replace("<svg", () => `<svg role="img" aria-label="${escapeHtml(label)}"`);
}

/** Puts pictures under one caption. */
export function figure(caption: Caption, ...pictures: string[]): string {
  const { title, subtitle, legend = [], newest } = caption;
  const keys = legend.map(({ colour, label, value, dashed }) =>
    `<span class="key${dashed ? " dashed" : ""}" style="--key:${COLOUR[colour]}">${
      escapeHtml(label)
    }` +
    (value === undefined ? "" : `<b>${escapeHtml(value)}</b>`) + "</span>"
  );
  return `${STYLE}<figure class="writebehind" aria-label="${
    escapeHtml(`${title}: ${subtitle}`)
  }"><figcaption><span class="title">${escapeHtml(title)}</span><span class="subtitle">${
    escapeHtml(subtitle)
  }</span>${newest ? stoppedAt(newest) : ""}${
    keys.length > 0 ? `<div class="legend">${keys.join("")}</div>` : ""
  }</figcaption>${pictures.join("")}</figure>`;
}

/** Without a new measurement for so long, in ms, a chart has stopped. */
export const STOPPED_MS = 6000;

/**
 * Says since when nothing moves. The page shows it by itself once a drawing has not been replaced for that long: who
 * has stopped, or was killed, cannot say so any more.
 */
function stoppedAt(newest: Date): string {
  // Figures of other processes have the time of the day.
  const now = Date.now() - newest.getTime() > STOPPED_MS ? " now" : "";
  return `<span class="stopped${now}">stopped at ${clock(newest)}</span>`;
}

/** The mark of a chart that has nothing to show yet. */
export function waiting(empty: boolean): Plot.Markish[] {
  return empty
    ? [Plot.text(["waiting for data"], { frameAnchor: "middle", fontSize: 18, fillOpacity: 0.7 })]
    : [];
}
