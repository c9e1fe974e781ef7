/** The newest figures, large enough for the back row. */

import { counted } from "../../core/counted.ts";
import type { Sample } from "../../metrics/sampler.ts";
import type { Marks, Verified } from "./marks.ts";
import { clock, duration, full } from "./scales.ts";
import { COLOUR, type Colour, escapeHtml } from "./theme.ts";

/** A tile for each figure, and one for what a verify has found. */
export function tiles(
  sample: Sample | undefined,
  { verified, verifying, verifyUrl }: Marks,
): string {
  const number = (value: number | undefined) => value === undefined ? "–" : full(value);
  const behind = sample?.lagSeconds ? `${duration(1000 * sample.lagSeconds)} behind` : "";
  const rate = (value: number | undefined) =>
    value === undefined ? "" : `${full(Math.round(value))}/s`;
  const parts: [Colour, string, string, string][] = [
    ["written", "written", number(sample?.written), rate(sample?.writtenPerSecond)],
    ["stored", "applied", number(sample?.applied), rate(sample?.appliedPerSecond)],
    ["lag", "lag", number(sample?.lagEvents), behind],
    ["retried", "parked", number(sample?.parked), ""],
    [
      "failed",
      "lost",
      verified ? full(verified.lost) : "–",
      verified ? noteOf(verified) : "not verified yet",
    ],
  ];
  const button = verifying
    ? "<small>verifying …</small>"
    : verifyUrl
    ? `<button onclick="${escapeHtml(clicked(verifyUrl))}">verify now</button>`
    : "";
  return `<div class="writebehind tiles">${
    parts.map(([colour, name, value, note]) =>
      `<div class="tile" style="--key:${COLOUR[colour]}">${name}<b>${escapeHtml(value)}</b><small>${
        escapeHtml(note) || "&nbsp;"
      }</small>${name === "lost" ? button : ""}</div>`
    ).join("")
  }</div>`;
}

/** What was compared, and when; and of what nothing is known, since the target was behind. */
export function noteOf({ compared, behind, at }: Verified): string {
  return `of ${counted(compared, "document", full(compared))}, verified at ${clock(at)}` +
    (behind > 0 ? `; ${full(behind)} more were behind` : "");
}

/** What the button does in the page: it shows the answer also where nothing is drawn any more. */
function clicked(url: string): string {
  return `const b=this,t=b.parentElement;b.disabled=true;b.textContent="verifying …";` +
    `fetch(${JSON.stringify(url)},{method:"POST"}).then(async r=>{` +
    `if(!r.ok)throw new Error(await r.text());const v=await r.json();` +
    `t.querySelector("b").textContent=v.lost;t.querySelector("small").textContent=v.note;` +
    `b.disabled=false;b.textContent="verify now"}).catch(e=>{` +
    `b.textContent=e instanceof TypeError?"its process is gone":"failed: "+e.message})`;
}
