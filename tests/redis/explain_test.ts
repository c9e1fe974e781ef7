import assert from "node:assert/strict";
import { refusalOf, withAddress } from "writebehind/redis/explain.ts";
import { ReplyError } from "writebehind/redis/resp.ts";

/** How Redis ends an answer that comes from the middle of a script. */
const IN_SCRIPT = ` script: ${"0a".repeat(20)}, on @user_script:7.`;

const answers: Record<string, [answer: string, code: string | null]> = {
  replica: ["READONLY You can't write against a read only replica.", "READONLY"],
  "replica, by a script's first write": [`READONLY You can't write.${IN_SCRIPT}`, "READONLY"],
  "full, by a script's first write": [`OOM command not allowed.${IN_SCRIPT}`, "OOM"],
  renamed: ["ERR unknown command 'evalsha', with args beginning with: '1'", "ERR"],
  "renamed, in a script": [`ERR Unknown Redis command called from script${IN_SCRIPT}`, null],
  "two slots": ["CROSSSLOT Keys in request don't hash to the same slot", "CROSSSLOT"],
  "two slots, in a script": [`CROSSSLOT Keys in request don't hash${IN_SCRIPT}`, null],
  "another node": ["MOVED 3999 127.0.0.1:6381", "MOVED"],
  "too long": ["ERR Protocol error: invalid bulk length", "ERR"],
  "no right": ["NOPERM User a has no permissions to run the 'evalsha' command", "NOPERM"],
  "no right, in a script": [`NOPERM User a has no permissions${IN_SCRIPT}`, null],
  "no password": ["NOAUTH Authentication required.", "NOAUTH"],
  "no password, and many arguments": [
    "ERR Protocol error: unauthenticated multibulk length",
    "ERR",
  ],
  "a script's error": [`ERR value is not an integer or out of range${IN_SCRIPT}`, null],
  "an error of a script's that quotes": [`ERR NOAUTH MOVED ERR unknown command${IN_SCRIPT}`, null],
  "an answer of something else": ["ERR upstream failure", null],
};

Deno.test("a right that a script lacks is told with what to do", () => {
  const answer = `ERR ACL failure in script: User a has no permissions to run 'xtrim'${IN_SCRIPT}`;
  const told = withAddress(new ReplyError(answer), "cache:6379").message;
  assert.match(
    told,
    /^A script on Redis at cache:6379 failed: .*; grant them by ACL SETUSER \(ERR/,
  );
  assert(told.includes(answer));
});

for (const [name, [answer, code]] of Object.entries(answers)) {
  Deno.test(`an answer that nothing ran, or that proves nothing: ${name}`, () => {
    const error = new ReplyError(answer);
    assert.equal(refusalOf(error)?.code ?? null, code);
    // The same words from elsewhere, such as the network, prove nothing.
    assert.equal(refusalOf(new Error(answer)), null);
    const told = withAddress(error, "cache:6379").message;
    assert.equal(told.startsWith("Redis at cache:6379 refuses, "), code !== null, told);
    assert(told.includes(answer));
  });
}
