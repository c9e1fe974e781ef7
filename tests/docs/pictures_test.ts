import assert from "node:assert/strict";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { pictures } from "./pictures.ts";

Deno.test("the README's pictures are as the charts draw them now", async () => {
  for (const [name, svg] of Object.entries(await pictures())) {
    const drawn = await Deno.readTextFile(join(CHECKOUT, "docs", name));
    assert(drawn === svg, `docs/${name} is out of date: run \`deno task pictures\``);
  }
});
