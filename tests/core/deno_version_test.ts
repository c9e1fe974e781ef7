import assert from "node:assert/strict";
import { requireDeno } from "writebehind/core/deno_version.ts";

Deno.test("a Deno older than 2.9.1 is refused in one line that says what to do", () => {
  for (const version of ["1.46.3", "2.8.3", "2.9.0", "2.9.0+abc"]) {
    assert.throws(() => requireDeno(version), (error: Error) => {
      assert(!error.message.includes("\n"));
      return error.message.startsWith(`Deno ${version} is too old: 2.9.1 or newer is needed; run`);
    });
  }
  for (const version of ["2.9.1", "2.9.6", "2.10.0", "3.0.0"]) requireDeno(version);
  requireDeno();
});
