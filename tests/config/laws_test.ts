import fc from "fast-check";
import assert from "node:assert/strict";
import { parseConfig } from "writebehind";
import { stringify } from "yaml";
import { plain, problems } from "./texts.ts";

/** Every path of keys in a value; items of lists by their index. */
function* paths(value: unknown, path: (string | number)[] = []): Generator<(string | number)[]> {
  if (typeof value !== "object" || value === null) return;
  for (const [key, inner] of Object.entries(value)) {
    const at = [...path, Array.isArray(value) ? Number(key) : key];
    if (!Array.isArray(value)) yield at;
    yield* paths(inner, at);
  }
}

/** The value with another name for the key at the path. */
function rename(value: unknown, [first, ...rest]: (string | number)[], name: string): unknown {
  const entries = Object.entries(Object(value)).map(([key, inner]) => {
    if (key !== String(first)) return [key, inner];
    return rest.length === 0 ? [name, inner] : [key, rename(inner, rest, name)];
  });
  return Array.isArray(value) ? entries.map(([, inner]) => inner) : Object.fromEntries(entries);
}

function keyPath(path: readonly (string | number)[]): string {
  return path.map((part) => typeof part === "number" ? `[${part}]` : `.${part}`).join("").slice(1);
}

Deno.test("config: law: what is valid comes back from YAML as it was", () => {
  const name = fc.stringMatching(/^x[a-z0-9_]{0,10}$/); // no reserved name begins with an x
  const ms = fc.integer({ min: 1, max: 2 ** 31 - 1 });
  const text = fc.string({ unit: "binary", minLength: 1 })
    .filter((value) => !value.includes("\0") && value.isWellFormed());
  const password = fc.option(text);
  const shares = fc.tuple(fc.nat(100), fc.nat(100)).map(([a, b]) => {
    const [low, high] = [Math.min(a, b), Math.max(a, b)];
    return {
      create_pct: low / 100,
      update_pct: (high - low) / 100,
      delete_pct: (100 - high) / 100,
    };
  });
  const valid = fc.record({
    postgresql: fc.record({ user: text, database: text, password, ssl: fc.boolean() }),
    redis: fc.record({ port: fc.integer({ min: 1, max: 65535 }), password, tls: fc.boolean() }),
    zero_data_loss: fc.record({
      wait_timeout_ms: ms,
      aof_rewrite_timeout_secs: fc.double({ min: 1e-3, max: 1e6, noNaN: true }),
    }),
    entities: fc.uniqueArray(name, { minLength: 1, maxLength: 4 }).map((names) =>
      names.map((name) => ({
        name,
        table: `${name}_table`,
        index_name: `idx:${name}`,
        columns: names.map((name) => ({ name, type: "text", index: true, on_error: null })),
      }))
    ),
    dummy_data: fc.tuple(shares, fc.maxSafeInteger()).map(([pct, seed]) => ({ ...pct, seed })),
    write_behind: fc.record({ batch_size: fc.integer({ min: 1, max: 100_000 }) }),
    search_index: fc.record({
      fields: fc.uniqueArray(
        fc.record({
          name,
          type: fc.constantFrom("TEXT", "TAG", "NUMERIC", "GEO"),
          path: name.map((path) => `$.${path}`),
          sortable: fc.boolean(),
        }),
        { minLength: 1, maxLength: 4, selector: (field) => field.name },
      ),
    }),
  });
  fc.assert(fc.property(valid, (input) => {
    const config = plain(parseConfig(stringify(input), "f"));
    assert.partialDeepStrictEqual(config, structuredClone(input));
    assert.deepEqual(plain(parseConfig(stringify(config), "f")), config);
  }));
});

Deno.test("config: law: a typo of one character is found, with its line and the true key", () => {
  const full = plain(parseConfig("", "f"));
  const edit = fc.tuple(
    fc.constantFrom("insert", "delete", "replace"),
    fc.nat(),
    fc.constantFrom(..."abcxyz_"),
  );
  fc.assert(fc.property(fc.constantFrom(...paths(full)), edit, (path, [how, where, char]) => {
    const key = String(path.at(-1));
    const position = where % key.length;
    const typo = key.slice(0, position) + (how === "delete" ? "" : char) +
      key.slice(position + (how === "insert" ? 0 : 1));
    const parent = path.slice(0, -1).reduce<unknown>((value, part) => Object(value)[part], full);
    fc.pre(typo !== "" && !Object.hasOwn(Object(parent), typo));
    const text = stringify(rename(full, path, "MARK"));
    const line = text.slice(0, text.indexOf("MARK")).split("\n").length;
    const start = `f:${line}: ${keyPath([...path.slice(0, -1), typo])}: unknown key; did you mean `;
    const found = problems(text.replace("MARK", typo)).find((problem) => problem.startsWith(start));
    assert.match(found ?? "no such problem", new RegExp(` (.* or )?${key}( or .*)?\\?$`));
  }));
});
