import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { testFolder } from "../support/servers.ts";

/** Of a program in which somebody traces, but has no API of OpenTelemetry that loads. */
const PROGRAM = `
  import { configure } from "@logtape/logtape";
  import { delay } from "${join(CHECKOUT, "lib/core/delay.ts")}";
  const said: string[] = [];
  await configure({
    sinks: { said: ({ message }) => said.push(message.join("")) },
    loggers: [{ category: "writebehind", sinks: ["said"] }, { category: "logtape", sinks: [] }],
  });
  const register = () => {
    Object.assign(globalThis, { [Symbol.for("opentelemetry.js.api.1")]: { trace: {} } });
  };
  if (Deno.args[0] === "before") register();
  const { traced } = await import("${join(CHECKOUT, "lib/core/tracing.ts")}");
  register();
  const span = { kind: "producer" as const, before: () => ({}), after: () => ({}) };
  const answer = () => traced("insert session", span, () => Promise.resolve("written"));
  console.log(await answer());
  while (said.length === 0) await delay(10);
  console.log(await answer(), said.length, said[0]);
`;

Deno.test("where the API of OpenTelemetry does not load, calls go on, and the log says why", async (t) => {
  const folder = testFolder("tracing");
  await Deno.mkdir(folder, { recursive: true });
  const program = join(folder, "program.ts");
  const map = join(folder, "map.json");
  const { imports } = JSON.parse(await Deno.readTextFile(join(CHECKOUT, "deno.json")));
  const { "@logtape/logtape": logtape } = imports;
  await Deno.writeTextFile(program, PROGRAM);
  await Deno.writeTextFile(
    map,
    JSON.stringify({ imports: { "@logtape/logtape": logtape, "@opentelemetry/api": "./none.ts" } }),
  );
  for (const registered of ["before", "after"]) {
    await t.step(`registered ${registered} the library is loaded`, async () => {
      const command = new Deno.Command(Deno.execPath(), {
        args: [
          ...[
            "run",
            "--no-config",
            "--no-lock",
            "--no-check",
            "--cached-only",
            "--import-map",
            map,
          ],
          ...["-A", program, registered],
        ],
        signal: AbortSignal.timeout(60_000),
      });
      const { code, stdout, stderr } = await command.output();
      const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      assert.equal(code, 0, textOf(stderr));
      assert.match(textOf(stdout), /^written\nwritten 1 there are no spans: .*none\.ts/);
    });
  }
});
