/**
 * Parsing documents, also those whose keys V8 misreads.
 * @module
 */

import type { Json } from "./encode.ts";
import {
  ARRAY,
  ARRAY_END,
  COLON,
  COMMA,
  END,
  JsonReader,
  OBJECT,
  OBJECT_END,
  STRING,
} from "./reader.ts";

/** A key that ends with an escape, or what looks like one. */
const ENDS_ESCAPED = /\\(?:u[\da-f]{4}|.)"\s*:/i;

/**
 * As `JSON.parse`, which takes `{"a":1,"\n":2}` for `{"a":1,"\\":2}` once it has read that (V8 15.0): a key that ends with an
 * escape for one that ends with a backslash, where an object with the same keys before it had that one.
 * @throws {SyntaxError} where the text is no JSON
 */
export function parseJson(text: string): Json {
  const value = JSON.parse(text) as Json;
  return text.includes("\\") && ENDS_ESCAPED.test(text) ? built(text) : value;
}

/** The value of a text that is JSON, token by token. */
function built(text: string): Json {
  const reader = new JsonReader(text);
  const root: Json[] = [];
  const open: (Json[] | Record<string, Json>)[] = [root];
  let key = "";
  const put = (value: Json) => {
    const into = open.at(-1)!;
    if (Array.isArray(into)) into.push(value);
    // As `JSON.parse` does, for "__proto__" as well.
    else Object.defineProperty(into, key, { value, ...PLAIN });
  };
  for (let kind = reader.next(); kind !== END; kind = reader.next()) {
    if (kind === OBJECT || kind === ARRAY) {
      const container = kind === OBJECT ? {} : [];
      put(container);
      open.push(container);
    } else if (kind === OBJECT_END || kind === ARRAY_END) open.pop();
    else if (kind !== COMMA && kind !== COLON) {
      const value = JSON.parse(reader.token) as Json;
      if (reader.isKey && kind === STRING) key = value as string;
      else put(value);
    }
  }
  return root[0]!;
}

const PLAIN = { configurable: true, enumerable: true, writable: true };
