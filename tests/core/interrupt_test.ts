import assert from "node:assert/strict";
import { CHECKOUT } from "writebehind/config/checkout.ts";

Deno.test("one Ctrl-C that arrives twice ends a command as it meant to end", async () => {
  const script = `
    import { interruptible } from "writebehind/core/interrupt.ts";
    await interruptible(async (signal) => {
      console.log("runs");
      await new Promise((resolve) => {
        const timer = setInterval(() => {}, 1000);
        signal.addEventListener("abort", () => resolve(clearInterval(timer)));
      });
    });
    Deno.kill(Deno.pid, "SIGINT");
    await new Promise((resolve) => setTimeout(resolve, 200));
    console.log("ends");`;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--config", `${CHECKOUT}/deno.json`, script],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let said = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    said += text;
    if (text.includes("runs")) child.kill("SIGINT");
  }
  assert.equal((await child.status).code, 0);
  assert.equal(said, "runs\nends\n");
});
