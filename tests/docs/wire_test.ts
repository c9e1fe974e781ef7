/** Runs the shell blocks of docs/wire.md by the real redis-cli, then drains what they wrote. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { connectPostgres, createTable, documentKey } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { findRedis } from "writebehind/dev/servers/binaries.ts";
import { deleteScript, insertScript, updateScript } from "writebehind/redis/scripts/mod.ts";
import { drain, type Pipeline, rowsOf, testPipeline } from "../support/pipeline.ts";
import { testDatabase, testFolder } from "../support/servers.ts";
import { page } from "./pages.ts";

/** A shell block, and the output that the page shows for it. */
interface Block {
  commands: string;
  /** lines in which `…` stands for anything; `null` where the page shows none */
  shown: string | null;
}

const blocks: Block[] = [
  ...page("docs/wire.md").matchAll(/```sh\n([^]*?)```\n(?:\n```text\n([^]*?)```)?/g),
].map(
  ([, commands, shown]) => ({ commands: commands!, shown: shown ?? null }),
);

/** A folder with a `redis-cli` that goes to the test's own Redis, and prints as on a terminal. */
async function commandFolder({ servers }: Pipeline): Promise<string> {
  const { server, libraries } = await findRedis();
  const folder = testFolder("bin");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(
    join(folder, "redis-cli"),
    `#!/bin/sh
LD_LIBRARY_PATH="${libraries ?? ""}" exec "${join(dirname(server), "redis-cli")}" \\
  --no-raw -p ${servers.redis.port} "$@"
`,
    { mode: 0o755 },
  );
  return folder;
}

const BETWEEN = "---- the next block";

/** Runs all blocks in one shell, as a reader does who follows the page; gives the output of each. */
async function run(pipeline: Pipeline): Promise<string[]> {
  const script = blocks.map(({ commands }) => `${commands}echo "${BETWEEN}"\n`).join("");
  const { success, stdout, stderr } = await new Deno.Command("sh", {
    args: ["-ec", script],
    cwd: CHECKOUT,
    env: { PATH: `${await commandFolder(pipeline)}:${Deno.env.get("PATH")}` },
    stdin: "null",
  }).output();
  const output = new TextDecoder().decode(stdout);
  assert(success, `${output}\n${new TextDecoder().decode(stderr)}`);
  return output.split(`${BETWEEN}\n`);
}

/** Whether an output is as the page shows it. */
function matches(output: string, shown: string): boolean {
  const parts = shown.split("…").map((part) => part.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`).test(output);
}

Deno.test("wire.md: every block prints what the page shows, and a sink makes the rows of it", async () => {
  assert(blocks.length > 10);
  await using pipeline = await testPipeline();
  const outputs = await run(pipeline);
  for (const [index, { commands, shown }] of blocks.entries()) {
    const output = outputs[index]!;
    if (shown === null) assert.equal(output, "", commands);
    else assert(matches(output, shown), `${commands}\nprinted\n${output}\nnot\n${shown}`);
  }

  // The page's scripts are the library's, so Redis keeps one of each.
  const shas = [insertScript, updateScript, deleteScript].map(({ sha }) => sha);
  assert.deepEqual(await pipeline.redis.script("EXISTS", ...shas), [1, 1, 1]);

  await drain(pipeline);
  // An entity has one number of partitions for ever; what the page shows of four is of another Redis and table.
  await pipeline.redis.del("stream:session", "stream:settings:session");
  await using database = await testDatabase(pipeline.servers.postgres);
  const four = pipeline.with({
    streams: { partitions: 4 },
    postgresql: { database: database.name },
  });
  await using pool = await connectPostgres(four);
  await createTable(pool, four, "session");
  assert.equal(await pipeline.redis.exists(documentKey(four, "session", "w-7")), 1);
  await drain({ ...pipeline, pool, config: four });
  const rows = [...await rowsOf(pipeline), ...await rowsOf({ pool })];
  assert.deepEqual(
    Object.fromEntries(rows.map(([id, text]) => [id, JSON.parse(text)])),
    {
      "w-1": { user_id: "user_1", device_type: "android" },
      "w-4": { user_id: "user_4" },
      "w-5": { user_id: "user_5", device_type: "ios" },
      "w-6": { user_id: "user_6" },
      "w-7": { user_id: "user_7" },
    },
  );
  for (const each of [pipeline.pool, pool]) {
    const { rows } = await each.query("SELECT count(*)::int FROM writebehind_dead_letter");
    assert.deepEqual(rows, [{ count: 0 }]);
  }
});
