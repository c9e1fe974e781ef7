/** What the package exports, and which packages an import of it loads. */

import { deepEqual, equal, ok } from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import * as mod from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { MODULES } from "./checks/ok.ts";

const { exports, imports } = JSON.parse(
  await Deno.readTextFile(join(CHECKOUT, "deno.json")),
) as {
  exports: Record<string, string>;
  imports: Record<string, string>;
};

/** The public names of the original's README, in camelCase. */
const ORIGINAL = [
  "RedisWriteBehind",
  "connectPostgres",
  "connectRedis",
  "consumePeriodically",
  "createSearchIndex",
  "deleteDocument",
  "dummyDataWorker",
  "generateDocId",
  "generateDummySession",
  "insertDocument",
  "loadConfig",
  "loadMetrics",
  "main",
  "randomSearchQueries",
  "readByIds",
  "updateDocument",
];

/** What `deno info --json` tells of a module: `code` is what running it imports, types aside. */
interface Info {
  redirects: Record<string, string>;
  modules: {
    specifier: string;
    dependencies?: { isDynamic?: boolean; code?: { specifier?: string } }[];
  }[];
}

/** The npm packages that an import of a file loads at once, by name. */
async function packagesOf(file: string): Promise<string[]> {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", file],
    cwd: CHECKOUT,
  }).output();
  const { modules, redirects } = JSON.parse(new TextDecoder().decode(stdout)) as Info;
  const loaded = new Set([pathToFileURL(join(CHECKOUT, file)).href]);
  for (const url of loaded) {
    const module = modules.find(({ specifier }) => specifier === (redirects[url] ?? url));
    for (const { isDynamic, code } of module?.dependencies ?? []) {
      if (!isDynamic && code?.specifier) loaded.add(code.specifier);
    }
  }
  return [...loaded].map((url) => url.match(/^npm:\/?(.+?)@/)?.[1]).filter((name) =>
    name !== undefined
  )
    .sort();
}

Deno.test("mod: the names of the original's README are exported, in camelCase", () => {
  for (const name of ORIGINAL) equal(typeof Reflect.get(mod, name), "function", name);
});

Deno.test("mod: an import loads ioredis, and no driver of a target", async () => {
  deepEqual(await packagesOf("lib/mod.ts"), ["async-mutex", "ioredis", "yaml", "zod"]);
});

Deno.test("mod: the configuration and the port load no driver of any server", async () => {
  deepEqual(await packagesOf("lib/config/mod.ts"), ["yaml", "zod"]);
  deepEqual(await packagesOf("lib/targets/mod.ts"), ["async-mutex", "yaml", "zod"]);
});

Deno.test("mod: a thread of SQLite's, started for each connection, loads no package", async () => {
  deepEqual(await packagesOf("lib/targets/sqlite/worker/worker.ts"), []);
});

Deno.test("mod: what deno.json exports is documented, and is what tests and notebooks import", async () => {
  for (const [name, file] of Object.entries(exports)) {
    equal(imports[name.replace(".", "writebehind")], file, `the import map's ${name}`);
    ok(MODULES.includes(file.replace("./", "")), `deno task ok reads the docs of ${file}`);
    const source = await Deno.readTextFile(join(CHECKOUT, file));
    equal(/^export \* from/m.test(source), false, `${file} names each export`);
  }
});

/** What `deno doc --json` tells of the names that a file exports. */
interface Doc {
  nodes: Record<string, {
    symbols: {
      name: string;
      declarations: { kind: string; jsDoc?: { tags?: { kind: string }[] } }[];
    }[];
  }>;
}

Deno.test("mod: every public function has an example", async () => {
  const { stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["doc", "--quiet", "--json", "lib/mod.ts"],
    cwd: CHECKOUT,
  }).output();
  const { nodes } = JSON.parse(new TextDecoder().decode(stdout)) as Doc;
  const functions = Object.values(nodes).flatMap(({ symbols }) =>
    symbols.filter(({ declarations }) => declarations.some(({ kind }) => kind === "function"))
  );
  const without = functions.filter(({ declarations }) =>
    !declarations.some(({ jsDoc }) => jsDoc?.tags?.some(({ kind }) => kind === "example"))
  );
  deepEqual(without.map(({ name }) => name), []);
  equal(functions.length >= ORIGINAL.length, true, `read ${functions.length} functions`);
});
