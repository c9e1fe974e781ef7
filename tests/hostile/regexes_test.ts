/** No pattern of ours takes more than linear time on what people, programs and servers feed. */

import assert from "node:assert/strict";
import { encodeJson } from "writebehind/core/json/encode.ts";
import { oneLine, quoted } from "writebehind/cli/common.ts";
import { connectionErrorKind } from "writebehind/core/error_kinds.ts";
import { redacted } from "writebehind/core/log.ts";
import { parseConfig } from "writebehind";

const LENGTH = 200_000;
const repeated = (text: string) => text.repeat(LENGTH / text.length);
/** A call that refuses is as good as one that takes. */
const tried = (call: (text: string) => unknown) => (text: string) => {
  try {
    call(text);
  } catch {
    // refused
  }
};

const USERS: Record<string, (text: string) => unknown> = {
  oneLine,
  quoted,
  redacted,
  connectionErrorKind: (text) => connectionErrorKind(new Error(text)),
  "encodeJson of a number": tried((text) => encodeJson(`{"n":${text}}`, 2 ** 20)),
  "encodeJson of a key": tried((text) => encodeJson({ [text]: Infinity }, 2 ** 20)),
  "encodeJson of a text": tried((text) => encodeJson(JSON.stringify({ a: text }), 2 ** 20)),
  "a host": tried((text) => parseConfig(JSON.stringify({ redis: { host: text } }), "f")),
  "a column's path": tried((text) =>
    parseConfig(
      JSON.stringify({ entities: [{ columns: [{ path: `$${text}`, type: "text" }] }] }),
      "f",
    )
  ),
  "an entity": tried((text) => parseConfig(JSON.stringify({ entities: [{ name: text }] }), "f")),
};
const TEXTS = [
  " ",
  "\n ",
  "0",
  "1e",
  "0.",
  "://a:",
  "://a:b@",
  "@://a:",
  "connection ",
  "index ",
  "a",
  "\\",
  "[",
  ".a",
  "[0]",
  "-",
];

for (const [name, call] of Object.entries(USERS)) {
  Deno.test(`${name}: linear`, () => {
    for (const text of TEXTS) {
      const long = `${repeated(text)}x`;
      const began = performance.now();
      call(long);
      const took = performance.now() - began;
      assert(
        took < 1000,
        `${JSON.stringify(text)} × ${LENGTH / text.length}: ${took.toFixed()} ms`,
      );
    }
  });
}

Deno.test("passwords are hidden, and lines joined, as before", () => {
  assert.equal(
    redacted("at redis://u:p:w@h/ and x://:q@i b@c"),
    "at redis://u:***@h/ and x://:***@i b@c",
  );
  assert.equal(redacted("redis://h:6379/0 failed, ask a@b"), "redis://h:6379/0 failed, ask a@b");
  assert.equal(oneLine("first \r\n\n second\tthird"), "first; second\\u0009third");
});
