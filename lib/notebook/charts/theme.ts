/** How everything that we show in a notebook looks, on light and on dark backgrounds. */

/** What a colour stands for. Each is readable (3:1 or more) on white and, in its dark form, on black. */
export const PALETTE = {
  written: { light: "#1d63d8", dark: "#6aa8ff" },
  stored: { light: "#0c8577", dark: "#35d0bd" },
  failed: { light: "#cc1f2f", dark: "#ff7b7b" },
  retried: { light: "#b35c00", dark: "#f5b04a" },
  lag: { light: "#7a3fe0", dark: "#b394ff" },
  other: { light: "#7b8594", dark: "#8f99a8" },
} as const;

/** The name of a colour, by what it stands for. */
export type Colour = keyof typeof PALETTE;
/** A kind of background. */
export type Theme = "light" | "dark";

/** All of them. */
export const COLOURS = Object.keys(PALETTE) as Colour[];

const variable = (colour: Colour) => `var(--wb-${colour}, ${PALETTE[colour].light})`;

/** The CSS values of our colours: they follow the theme of the page that they are on. */
export const COLOUR = Object.fromEntries(
  COLOURS.map((colour) => [colour, variable(colour)]),
) as Record<Colour, string>;

const variables = (theme: Theme) =>
  COLOURS.map((colour) => `--wb-${colour}:${PALETTE[colour][theme]}`).join(";");

/**
 * Styles that go with each output, since an output may be moved, exported or cleared by itself. The theme is
 * the page's own (JupyterLab, VS Code), and the system's only on pages that say nothing. The class stands
 * twice where JupyterLab's own rules for tables would win otherwise.
 */
export const STYLE = `<style>
.writebehind{${
  variables("light")
};font:13px/1.45 system-ui,sans-serif;color:inherit;margin:0 0 14px}
[data-jp-theme-light="false"] .writebehind,.vscode-dark .writebehind,` +
  `.vscode-high-contrast:not(.vscode-high-contrast-light) .writebehind` +
  `{${variables("dark")}}
@media (prefers-color-scheme:dark){body:not([data-jp-theme-light],[data-vscode-theme-kind]) ` +
  `.writebehind{${variables("dark")}}}
.writebehind figcaption{margin:0 0 4px;text-align:left;font-style:normal;font-size:13px;color:inherit}
.writebehind .title{font-size:15px;font-weight:600}
.writebehind .subtitle{opacity:.75;margin-left:8px}
.writebehind .legend{display:flex;flex-wrap:wrap;gap:2px 18px}
.writebehind .key::before{content:"";display:inline-block;width:11px;height:11px;border-radius:3px;` +
  `margin-right:6px;background:var(--key);vertical-align:-1px}
.writebehind .dashed::before{background:linear-gradient(90deg,var(--key) 40%,transparent 40% 60%,` +
  `var(--key) 60%);border-radius:0;height:4px;vertical-align:3px}
.writebehind .key b{font-variant-numeric:tabular-nums;margin-left:5px}
.writebehind svg{display:block;max-width:100%;height:auto;background:transparent}
.writebehind .scroll{overflow-x:auto}
.writebehind table{border-collapse:collapse;margin:0;font-size:13px;color:inherit;border:0}
.writebehind.writebehind table :is(th,td){padding:3px 10px;text-align:left;white-space:nowrap;border:0;` +
  `border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent);background:none;color:inherit}
.writebehind.writebehind table th{vertical-align:bottom;font-weight:600}
.writebehind.writebehind table small{display:block;font-weight:400;opacity:.7}
.writebehind.writebehind table .long{white-space:normal;word-break:break-all;min-width:21ch}
.writebehind.writebehind table .number{text-align:right;font-variant-numeric:tabular-nums}
.writebehind .null{opacity:.55;font-style:italic}
.writebehind .shape{opacity:.75;margin-top:4px}
.writebehind-error{color:var(--wb-failed);border-left:3px solid var(--wb-failed);padding:2px 10px;` +
  `white-space:pre-wrap;overflow-wrap:anywhere}
</style>`;

/** Text as HTML or XML, in an element or in a quoted attribute. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
