/** What lib/config/config.ts says of the keys, against what a configuration without any holds. */

import { deepEqual, equal } from "node:assert/strict";
import { join } from "node:path";
import { parseConfig } from "writebehind";

const CONFIG_TS = join(import.meta.dirname!, "..", "..", "lib", "config", "config.ts");

/** The defaults that the comments give, by the path of the key. */
async function documented(): Promise<Map<string, unknown>> {
  const source = await Deno.readTextFile(CONFIG_TS);
  const body = source.split("export interface Config {")[1]!.split("\n}\n")[0]!;
  const defaults = new Map<string, unknown>();
  const path: string[] = [];
  let value: string | undefined;
  for (const line of body.split("\n")) {
    const told = line.match(/@default \{(.*)\}/)?.[1];
    const [, key, type] = line.match(/^ +readonly (\w+): (.*)$/) ?? [];
    if (told !== undefined) value = told;
    else if (key === undefined) {
      if (line.trim() === "};") path.pop();
    } else if (type === "{") path.push(key);
    else {
      if (value !== undefined) defaults.set([...path, key].join("."), JSON.parse(value));
      value = undefined;
    }
  }
  return defaults;
}

function at(value: unknown, path: string): unknown {
  return path.split(".").reduce<unknown>(
    (inner, key) => Object.getOwnPropertyDescriptor(inner, key)?.value,
    value,
  );
}

Deno.test("config: the reference tells the defaults that the schema has", async () => {
  const defaults = await documented();
  equal(defaults.size > 40, true, `read ${defaults.size} defaults`);
  const config = parseConfig("", "empty.yaml");
  for (const [path, value] of defaults) deepEqual([path, at(config, path)], [path, value]);
});
