import { deepEqual, rejects, throws } from "node:assert/strict";
import { join } from "node:path";
import { circleFaults, floorFaults, type Imports, parseFloors, readImports } from "./floors.ts";

const TABLE = `
| floor | rooms | what they are |
| ---: | --- | --- |
| 1 | \`core/\` | the ground |
| 2 | \`documents/\` \`search/\` | write · search |
| 3 | \`mod.ts\` | public names |

| size | of |
| 1 | \`another table/\` |
`;

/** Imports, with a room of each floor beside them. */
function importsOf(files: Record<string, string[]>): Imports {
  const rooms = { "core/a.ts": [], "documents/a.ts": [], "search/a.ts": [], "mod.ts": [] };
  return new Map(Object.entries({ ...rooms, ...files }));
}

const faultsOf = (files: Record<string, string[]>) =>
  floorFaults(importsOf(files), parseFloors(TABLE));

Deno.test("floors: the table of the page, and its mistakes", () => {
  deepEqual([...parseFloors(TABLE)], [
    ["core/", 1],
    ["documents/", 2],
    ["search/", 2],
    ["mod.ts", 3],
  ]);
  throws(() => parseFloors("# no table"), /there is no table/);
  const twice = TABLE.replace("`mod.ts`", "`mod.ts` `core/`");
  throws(() => parseFloors(twice), /core\/ stands twice/);
});

Deno.test("floors: down, and within a room, is allowed", () => {
  const files = { "mod.ts": ["search/a.ts", "core/a.ts"], "search/a.ts": ["search/b.ts"] };
  deepEqual(faultsOf({ ...files, "search/b.ts": [] }), []);
});

Deno.test("floors: up, and across a floor, is a fault", () => {
  deepEqual(faultsOf({ "core/a.ts": ["search/a.ts"] }), [
    "lib/core/a.ts (floor 1) imports lib/search/a.ts (floor 2), which stands higher",
  ]);
  deepEqual(faultsOf({ "search/a.ts": ["documents/a.ts"] }), [
    "lib/search/a.ts (floor 2) imports lib/documents/a.ts (floor 2), which is another room of its floor",
  ]);
});

Deno.test("floors: the table and the rooms are the same", () => {
  deepEqual(faultsOf({ "attic/a.ts": ["core/a.ts"] }), ["lib/attic/ has no floor"]);
  const floors = parseFloors(TABLE);
  deepEqual(floorFaults(new Map([["core/a.ts", []], ["mod.ts", []]]), floors), [
    "lib/documents/ has a floor, but is not there",
    "lib/search/ has a floor, but is not there",
  ]);
});

Deno.test("circles: each file of one is named, by the shortest way round", () => {
  deepEqual(circleFaults(importsOf({ "mod.ts": ["core/a.ts"] })), []);
  const knots = importsOf({
    "core/a.ts": ["core/b.ts", "core/c.ts"],
    "core/b.ts": ["core/c.ts"],
    "core/c.ts": ["core/a.ts"],
    "search/a.ts": ["core/a.ts", "search/a.ts"],
  });
  deepEqual(circleFaults(knots), [
    "a circle: lib/core/a.ts → lib/core/c.ts → lib/core/a.ts",
    "a circle: lib/core/b.ts → lib/core/c.ts → lib/core/a.ts → lib/core/b.ts",
    "a circle: lib/search/a.ts → lib/search/a.ts",
  ]);
});

Deno.test("imports: static, of a type, exported again, dynamic and dynamic in a type", async () => {
  const lib = await Deno.makeTempDir({ prefix: "writebehind-floors-" });
  try {
    await Deno.mkdir(join(lib, "core"));
    const write = (file: string, text: string) => Deno.writeTextFile(join(lib, file), text);
    await write("core/a.ts", "export const a = 1; export type A = 1;");
    await write("core/static.ts", 'import { a } from "./a.ts"; a;');
    await write("core/type.ts", 'import type { A } from "./a.ts"; export const x: A = 1;');
    await write("core/again.ts", 'export * from "./a.ts"; import "node:path";');
    await write("core/dynamic.ts", 'await import("./a.ts");');
    await write("mod.ts", 'export type B = import("./core/a.ts").A;');
    deepEqual(Object.fromEntries([...await readImports(lib)].sort()), {
      "core/a.ts": [],
      "core/again.ts": ["core/a.ts"],
      "core/dynamic.ts": ["core/a.ts"],
      "core/static.ts": ["core/a.ts"],
      "core/type.ts": ["core/a.ts"],
      "mod.ts": ["core/a.ts"],
    });
    await write("mod.ts", 'import "./gone.ts";');
    await rejects(readImports(lib), /gone\.ts/);
  } finally {
    await Deno.remove(lib, { recursive: true });
  }
});
