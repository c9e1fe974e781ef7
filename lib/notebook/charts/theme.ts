/** How everything that we show in a notebook looks, on light and on dark backgrounds. */

/**
 * What a colour stands for. Each is readable (3:1 or more) on white and, in its dark form, on black. What meets in one
 * picture, such as written and stored, is told apart also by those who do not see red or green, and by its dashes.
 */
export const PALETTE = {
  written: { light: "#c25100", dark: "#ff9d4d" },
  stored: { light: "#0068b5", dark: "#5ab4ff" },
  failed: { light: "#b0103a", dark: "#ff7d92" },
  retried: { light: "#8a6a00", dark: "#f0c94a" },
  lag: { light: "#7a4fb0", dark: "#c0a0ff" },
  other: { light: "#6b7585", dark: "#98a2b0" },
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
};font:15px/1.45 system-ui,sans-serif;color:inherit;margin:0 0 14px;max-width:1100px;position:relative}
[data-jp-theme-light="false"] .writebehind,.vscode-dark .writebehind,` +
  `.vscode-high-contrast:not(.vscode-high-contrast-light) .writebehind` +
  `{${variables("dark")}}
@media (prefers-color-scheme:dark){body:not([data-jp-theme-light],[data-vscode-theme-kind]) ` +
  `.writebehind{${variables("dark")}}}
.writebehind figcaption{margin:0 0 4px;text-align:left;font-style:normal;font-size:15px;color:inherit}
.writebehind .title{font-size:18px;font-weight:600}
.writebehind .subtitle{opacity:.75;margin-left:8px}
.writebehind .legend{display:flex;flex-wrap:wrap;gap:2px 18px}
.writebehind .stopped~.legend{padding-right:165px}
.writebehind .key::before{content:"";display:inline-block;width:11px;height:11px;border-radius:3px;` +
  `margin-right:6px;background:var(--key);vertical-align:-1px}
.writebehind .dashed::before{background:linear-gradient(90deg,var(--key) 40%,transparent 40% 60%,` +
  `var(--key) 60%);border-radius:0;height:4px;vertical-align:3px}
.writebehind .key b{font-variant-numeric:tabular-nums;margin-left:5px}
.writebehind svg{display:block;width:100%;height:auto;background:transparent}
.writebehind .stopped{position:absolute;right:0;top:28px;padding:1px 9px;border-radius:4px;background:var(--wb-failed);` +
  `color:#fff;font-weight:600;opacity:0;animation:writebehind-stopped 0s 6s forwards}
[data-jp-theme-light="false"] .writebehind .stopped,.vscode-dark .writebehind .stopped{color:#000}
.writebehind .stopped.now{animation-delay:0s}
@keyframes writebehind-stopped{to{opacity:1}}
.writebehind-board{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(620px,100%),1fr));` +
  `gap:4px 28px;max-width:2000px;align-items:start}
.writebehind-board .tiles{grid-column:1/-1;max-width:none;display:flex;flex-wrap:wrap;gap:10px;margin-bottom:6px}
.writebehind-board .tile{flex:1 1 130px;padding:8px 14px;border-radius:8px;` +
  `background:color-mix(in srgb,currentColor 7%,transparent);border-left:5px solid var(--key)}
.writebehind-board .tile b{display:block;font-size:30px;line-height:1.2;font-variant-numeric:tabular-nums}
.writebehind-board .tile small{display:block;font-size:14px;opacity:.8}
.writebehind-board .tile button{font:inherit;font-size:14px;margin-top:3px;cursor:pointer}
.writebehind .scroll{overflow-x:auto}
.writebehind:has(>.scroll){max-width:none}
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
