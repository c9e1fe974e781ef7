/**
 * Checks that the imports in lib/ follow the table of floors in docs/architecture.md: no file uses a
 * higher floor or another room of its own floor, and no files import each other in a loop.
 *
 *     deno task ok
 */

import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { CHECKOUT } from "writebehind/config/checkout.ts";

/** The files of lib/ by path ("sink/reader.ts"), each with the files that it imports. */
export type Imports = ReadonlyMap<string, readonly string[]>;

/** The floor of each room; a room is a folder ("sink/") or a file ("mod.ts") directly in lib/. */
export type Floors = ReadonlyMap<string, number>;

/**
 * Reads the table of floors: each row's first cell is the number, its second names the rooms as code.
 *
 * @throws {Error} where a room stands twice, or there is no such table
 */
export function parseFloors(markdown: string): Floors {
  const floors = new Map<string, number>();
  const table = markdown.match(/^\| *floor *\|.*\n(\|.*\n?)*/m)?.[0] ?? "";
  for (const [, floor, rooms] of table.matchAll(/^\| *(\d+) *\|([^|]*)\|/gm)) {
    for (const [, room] of rooms!.matchAll(/`([^`]+)`/g)) {
      if (floors.has(room!)) throw new Error(`${room} stands twice in the table of floors`);
      floors.set(room!, Number(floor));
    }
  }
  if (floors.size === 0) throw new Error("there is no table `| floor | rooms | … |`");
  return floors;
}

/** Names the room that `file` lies in. */
function roomOf(file: string): string {
  return file.includes("/") ? file.slice(0, file.indexOf("/") + 1) : file;
}

/** What is wrong between the table and the imports, a line each. */
export function floorFaults(imports: Imports, floors: Floors): string[] {
  const rooms = new Set([...imports.keys()].map(roomOf));
  const faults = [
    ...[...rooms].filter((room) => !floors.has(room)).map((room) => `lib/${room} has no floor`),
    ...[...floors.keys()].filter((room) => !rooms.has(room)).map((room) =>
      `lib/${room} has a floor, but is not there`
    ),
  ];
  for (const [file, imported] of imports) {
    const from = roomOf(file);
    for (const other of imported) {
      const to = roomOf(other);
      const [below, above] = [floors.get(to), floors.get(from)];
      if (from === to || below === undefined || above === undefined || below < above) continue;
      const why = below === above ? "is another room of its floor" : "stands higher";
      faults.push(
        `lib/${file} (floor ${above}) imports lib/${other} (floor ${below}), which ${why}`,
      );
    }
  }
  return faults;
}

/** The circles of files, a line each: the shortest way round from each file that no line has named yet. */
export function circleFaults(imports: Imports): string[] {
  const told = new Set<string>();
  const faults: string[] = [];
  for (const file of [...imports.keys()].sort()) {
    const circle = told.has(file) ? undefined : shortestWayRound(file, imports);
    if (circle === undefined) continue;
    circle.forEach((each) => told.add(each));
    faults.push(`a circle: ${[...circle, file].map((each) => `lib/${each}`).join(" → ")}`);
  }
  return faults;
}

/** Searches breadth first for a way from `start` back to it; returns the files on it, `start` first. */
function shortestWayRound(start: string, imports: Imports): string[] | undefined {
  const ways: string[][] = [[start]];
  const seen = new Set<string>();
  for (const way of ways) {
    for (const next of imports.get(way.at(-1)!) ?? []) {
      if (next === start) return way;
      if (!seen.has(next)) ways.push([...way, next]);
      seen.add(next);
    }
  }
}

/** What `deno info --json` tells of a module; `code` and `type` are where an import leads. */
interface Info {
  modules: {
    specifier: string;
    error?: string;
    dependencies?: { code?: { specifier?: string }; type?: { specifier?: string } }[];
  }[];
}

/**
 * Reads what the files of a folder import of each other, by `deno info`: dynamic and type-only imports too.
 *
 * @throws {Error} where `deno info` fails or a file cannot be read
 */
export async function readImports(lib: string): Promise<Imports> {
  const root = `${pathToFileURL(lib).href}/`;
  const files = filesUnder(lib).map((path) => relative(lib, path).replaceAll("\\", "/"));
  // One module that imports all, so that one run tells of all.
  const all = files.map((file) => `import ${JSON.stringify(root + file)};`).join("");
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", `data:application/typescript,${encodeURIComponent(all)}`],
  }).output();
  if (!success) throw new Error(`deno info: ${new TextDecoder().decode(stderr)}`);
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as Info;
  const imports = new Map<string, string[]>();
  for (const { specifier, error, dependencies = [] } of modules) {
    if (!specifier.startsWith(root)) continue;
    if (error !== undefined) throw new Error(error);
    const targets = dependencies.flatMap(({ code, type }) => [code?.specifier, type?.specifier])
      .filter((target) => target?.startsWith(root)).map((target) => target!.slice(root.length));
    imports.set(specifier.slice(root.length), [...new Set(targets)]);
  }
  return imports;
}

function filesUnder(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) => {
    const path = join(folder, name);
    return isDirectory ? filesUnder(path) : name.endsWith(".ts") ? [path] : [];
  });
}

if (import.meta.main) {
  const page = await Deno.readTextFile(join(CHECKOUT, "docs", "architecture.md"));
  const imports = await readImports(join(CHECKOUT, "lib"));
  const faults = [...circleFaults(imports), ...floorFaults(imports, parseFloors(page))];
  for (const fault of faults) console.error(fault);
  if (faults.length > 0) {
    console.error(
      "The floors stand in docs/architecture.md. Move what is used down, or its user up.",
    );
    Deno.exit(1);
  }
  console.log(`Checked the floors of ${imports.size} files`);
}
