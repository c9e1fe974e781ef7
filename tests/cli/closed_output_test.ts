/** Whatever becomes of standard output, a task ends with a line and an exit status, never with a stack. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";

const { tasks } = JSON.parse(await Deno.readTextFile(join(CHECKOUT, "deno.json"))) as {
  tasks: Record<string, unknown>;
};

/** Runs a line of the shell; what it wrote to standard error. */
async function errorsOf(line: string): Promise<{ code: number; lines: string[] }> {
  const { code, stderr } = await new Deno.Command("bash", {
    args: ["-c", `set -o pipefail; ${line}`],
    cwd: CHECKOUT,
    env: { NO_COLOR: "1", DENO: Deno.execPath() },
    stdin: "null",
    stdout: "null",
  }).output();
  return { code, lines: new TextDecoder().decode(stderr).split("\n").filter(Boolean) };
}

for (const task of Object.keys(tasks)) {
  const help = `timeout 60 "$DENO" task -q ${task} --help`;

  Deno.test({
    name: `${task} --help on a full disk: one line, and a status`,
    ignore: Deno.build.os !== "linux",
    fn: async () => {
      const { code, lines } = await errorsOf(`${help} > /dev/full`);
      assert.equal(code, 1);
      assert.deepEqual(lines, ["Cannot write or read: No space left on device (os error 28)"]);
    },
  });

  Deno.test({
    name: `${task} --help into a pipe that ends: no stack`,
    ignore: Deno.build.os === "windows",
    fn: async () => {
      for (const reader of ["head -1", "true"]) {
        const { code, lines } = await errorsOf(`${help} | ${reader}`);
        // Who has read enough has what it wanted: it is no matter whether the rest was written.
        assert([0, 1].includes(code), `${reader}: ${code}`);
        assert(lines.length <= 1 && !/ {4}at /.test(lines.join()), lines.join("\n"));
      }
    },
  });
}

Deno.test({
  name: "status --watch into a pipe that ends: it ends as well",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    for (const json of ["", "--json"]) {
      const watch = `timeout 30 "$DENO" task -q status --watch 0.1 ${json}`;
      const { code } = await errorsOf(`${watch} | head -2`);
      assert([0, 1].includes(code), `${json}: ${code}`); // 124 where it has to be ended
    }
  },
});
