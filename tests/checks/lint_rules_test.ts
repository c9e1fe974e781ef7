/// <reference lib="deno.unstable" />
import { deepEqual, equal } from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import rules from "./lint_rules.ts";

function faultsOf(file: string, source: string): string[] {
  return Deno.lint.runPlugin(rules, join(CHECKOUT, file), source).map(({ message }) => message);
}

Deno.test("lint: SQL in lib is found outside the targets, in text and in templates", () => {
  const sources = [
    'query("SELECT 1");',
    "query(`\n  INSERT INTO t VALUES (1)`);",
    "query(`UPDATE ${table} AS t\n SET a = 1`);",
    "query('DELETE FROM t');",
  ];
  for (const source of sources) {
    equal(faultsOf("lib/operate/status.ts", source).length, 1, source);
    deepEqual(faultsOf("lib/targets/postgres/rows.ts", source), []);
    deepEqual(faultsOf("tests/sink/sink_test.ts", source), []);
  }
});

Deno.test("lint: a comment, Redis's own SELECT and a sentence are no SQL", () => {
  const sources = [
    "// SELECT is slow here\nrun();",
    'redis.call("SELECT", "1");',
    'throw new Error("Select a row, then delete from it");',
  ];
  for (const source of sources) deepEqual(faultsOf("lib/redis/resp.ts", source), []);
});

Deno.test("lint: only commands write to the console", () => {
  const source = "console.warn('slow');";
  deepEqual(faultsOf("lib/sink/sink.ts", source), ["the library writes to the console"]);
  for (
    const file of ["lib/cli/main.ts", "lib/dev/servers/redis.ts", "lib/pipeline.ts", "tests/a.ts"]
  ) {
    deepEqual(faultsOf(file, source), [], file);
  }
});

Deno.test("lint: nor do they write to its streams", () => {
  const source = "Deno.stderr.writeSync(line);";
  deepEqual(faultsOf("lib/sink/sink.ts", source), ["the library writes to the console"]);
  deepEqual(faultsOf("lib/sink/sink.ts", "Deno.readDirSync(line);"), []);
});

Deno.test("lint: no deadline is by a clock that may be set", () => {
  const clocked = "the clock is used for a time that passes, and it may be set";
  const sources = [
    "f();\n\nconst deadline = Date.now() + 5;",
    "f();\n\nif (Date.now() > deadline) f();",
    "f();\n\nif (deadline <= Date.now()) f();",
    "f();\n\nif (Date.now() - since < 5) f();",
  ];
  for (const source of sources) {
    deepEqual(faultsOf("lib/sink/sink.ts", source), [clocked], source);
    deepEqual(faultsOf("tests/sink/sink_test.ts", source), []);
  }
  const others = [
    "const deadline = performance.now() + 5;",
    "const at = Date.now();",
    "// By the clock of the certificate.\nif (Date.parse(to) < Date.now()) f();",
    "if (Date.parse(to) < Date.now()) f(); // the certificate has times of the day",
  ];
  for (const source of others) deepEqual(faultsOf("lib/sink/sink.ts", source), [], source);
});

Deno.test("lint: where an error is dropped, a comment says why", () => {
  const dropped = "an error is dropped, and no comment says why that is right";
  const silent = [
    "f();\n\ntry {\n  f();\n} catch {\n  g();\n}\n",
    "f();\n\nawait f().catch(() => {});\n",
    "f();\n\nawait f().catch(() => null);\n",
    "f();\n\nawait Promise.allSettled(all);\n",
  ];
  for (const source of silent) {
    deepEqual(faultsOf("lib/sink/sink.ts", source), [dropped], source);
    deepEqual(faultsOf("tests/sink/sink_test.ts", source), []);
  }
  const told = [
    "try {\n  f();\n} catch {\n  // It has ended.\n}\n",
    "// It has ended.\nawait f().catch(() => {});\n",
    "await f().catch(() => {}); // it has ended\n",
    "await f().catch((error) => tell(error));\n",
    "try {\n  f();\n} catch (error) {\n  tell(error);\n}\n",
  ];
  for (const source of told) deepEqual(faultsOf("lib/sink/sink.ts", source), [], source);
});

Deno.test("lint: a file of tests has at most 500 lines", () => {
  const long = "run();\n".repeat(501);
  deepEqual(faultsOf("tests/sink/sink_test.ts", long), [
    "501 lines of tests, at most 500 are allowed",
  ]);
  deepEqual(faultsOf("tests/sink/sink_test.ts", "run();\n".repeat(500)), []);
  deepEqual(faultsOf("tests/bench/bench.ts", long), []);
});
