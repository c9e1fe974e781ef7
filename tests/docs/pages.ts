/** The pages: README.md, CONTRIBUTING.md, CHANGELOG.md and docs/*.md. */

import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";

/** A page, by its path in the checkout. */
export interface Page {
  path: string;
  text: string;
}

const inFolder = (folder: string) =>
  [...Deno.readDirSync(join(CHECKOUT, folder))]
    .filter(({ name }) => name.endsWith(".md"))
    .map(({ name }) => join(folder, name));

export const PAGES: Page[] = [...inFolder("."), ...inFolder("docs")].sort().map((path) => ({
  path,
  text: Deno.readTextFileSync(join(CHECKOUT, path)),
}));

/** One page by its path. */
export function page(path: string): string {
  const found = PAGES.find((one) => one.path === path);
  if (!found) throw new Error(`there is no page ${path}`);
  return found.text;
}

/** The part of a page under a heading, up to the next one of its rank or a higher one. */
export function section(path: string, heading: string): string {
  const lines = page(path).split("\n");
  const begin = lines.indexOf(heading);
  if (begin < 0) throw new Error(`${path} has no heading ${heading}`);
  const rank = heading.indexOf(" ");
  const rest = lines.slice(begin + 1);
  const end = rest.findIndex((line) => {
    const hashes = /^(#+) /.exec(line)?.[1];
    return hashes !== undefined && hashes.length <= rank;
  });
  return (end < 0 ? rest : rest.slice(0, end)).join("\n");
}

/** The commands in a text's shell blocks, without comments. */
export const commandsOf = (text: string): string[] =>
  [...text.matchAll(/```sh\n([^]*?)```/g)]
    .flatMap(([, block]) => block!.split("\n"))
    .map((line) => line.replace(/\s+#.*/, "").trim())
    .filter(Boolean);

/** The anchor that GitHub gives a heading. */
export const anchorOf = (heading: string) =>
  heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(/\s/g, "-");

/** The SQL that docs/operating.md gives for a role of the smallest rights: it makes the role `app`. */
export function documentedGrants(): string {
  return /```sql\n([^]*?)```/.exec(section("docs/operating.md", "## The smallest rights"))![1]!;
}
