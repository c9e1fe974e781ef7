/** Row 12: cold starts. */

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { testFolder } from "../support/servers.ts";
import { interleave, median, type Row, row, seconds } from "./measure.ts";
import { SinkProcess } from "./sink_process.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const SINK = "start of the sink";
const IMPORT = "import of lib/mod.ts";
const EMPTY = "empty script";

const LOOK_EVERY_MS = 2;

export async function startRows(bench: Workbench): Promise<Row[]> {
  await bench.clear();
  const { smallBacklog } = bench.sizes;
  const backlog = await bench.fill(
    "cold start",
    bench.config,
    uniqueInserts(smallBacklog),
    smallBacklog,
  );
  const folder = testFolder("scripts");
  await Deno.mkdir(folder);
  const script = async (name: string, source: string) => {
    const path = join(folder, name);
    await Deno.writeTextFile(path, source);
    return () => runScript(path);
  };
  const lib = pathToFileURL(join(CHECKOUT, "lib/mod.ts")).href;
  const withImport = await script("import.ts", `import ${JSON.stringify(lib)};\n`);
  const empty = await script("empty.ts", "");

  bench.step("warm-up: starts");
  await withImport();
  await empty();
  const started = async () => {
    await bench.restore(backlog);
    return firstCommit(bench);
  };
  const took = await interleave(
    [
      [SINK, started],
      [IMPORT, () => seconds(withImport)],
      [EMPTY, () => seconds(empty)],
    ],
    bench.rounds,
    bench.step,
  );
  const base = took(EMPTY);
  const imported = took(IMPORT).map((seconds, round) => 1000 * (seconds - base[round]!));
  const note = `an empty script takes ${Math.round(1000 * median(base))} ms`;
  return [
    row("12a", "sink's start to its first committed batch in s, at most", took(SINK), {
      atMost: 1.5,
    }),
    row("12b", "import of lib/mod.ts in ms, at most", imported, { atMost: 300 }, note),
  ];
}

async function runScript(path: string): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--config", join(CHECKOUT, "deno.json"), path],
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr).trim());
}

/** Seconds from the start of the sink's process to its first committed batch. */
async function firstCommit(bench: Workbench): Promise<number> {
  const { stream } = partitionKeys(bench.config, ENTITY, 0);
  await using sink = await SinkProcess.start(bench);
  await sink.reaches(new Map([[stream, "0-1"]]), { everyMs: LOOK_EVERY_MS });
  return (performance.now() - sink.since) / 1000;
}
