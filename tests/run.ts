/**
 * Runs all tests, or those in the files and folders that are named, names those that were skipped, and
 * closes with a line `N passed, N failed`. With `CI=true` a skipped test counts as failed.
 *
 *     deno task test [--coverage] [path …]
 */

import { Command } from "commander";
import { join } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { ending } from "writebehind/core/ending.ts";
import { requireDeno } from "writebehind/core/deno_version.ts";
import { ensureSetup } from "writebehind/dev/setup.ts";
import { TYPES } from "./checks/ok.ts";
import { showTests } from "./support/test_progress.ts";
import { coverageByRoom, LEAST } from "./coverage.ts";

/**
 * Where all tests are run, those in these folders run beside the others: each list takes about a third of the time. Most
 * tests wait for servers and processes, so that three runs side by side leave two cores some time. The commands' tests are
 * not among them: where no server is named, a command takes those that the checkout has recorded, which other tests start.
 */
const BESIDE = [
  ["tests/targets", "tests/redis", "tests/search"],
  ["tests/sink", "tests/faults", "tests/metrics", "tests/operate"],
];

/** A test that hangs must not hang the whole run: after so long, in ms, it is stopped, and Deno names what is pending. */
const DEADLINE_MS = 45 * 60_000;

/** Without it each of SQLite's threads would start a second late where coverage is collected. */
const KEPT_THREADS = "./tests/support/kept_threads.ts";

const ENTITIES: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

if (import.meta.main) Deno.exit(await ending(run, console.error));

async function run(): Promise<number> {
  requireDeno();
  const command = new Command("deno task test")
    .description("run all tests, or those in the files and folders that are named")
    .argument("[paths...]", "files and folders", ["tests"])
    .option("--coverage", "print how much of each room ran", false)
    .parse(Deno.args, { from: "user" });
  const [paths] = command.processedArgs as [string[]];
  const { coverage } = command.opts<{ coverage: boolean }>();
  const all = Deno.args.every((argument) => argument === "--coverage");

  await ensureSetup({ onProgress: console.log });
  // Once for all, and not again after `ok`.
  if (all && !await typesHold()) {
    console.log("0 passed, 1 failed");
    return 1;
  }
  const folder = await Deno.makeTempDir({ prefix: "writebehind-tests-" });
  const profile = join(folder, "coverage");
  // On a terminal there is a bar below what they print.
  const bar = Deno.stderr.isTerminal();
  const running = new Set<Deno.ChildProcess>();
  const start = (name: string, wanted: string[], piped: boolean) => {
    const report = join(folder, `${name}.xml`);
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "test",
        "--allow-all",
        `--junit-path=${report}`,
        ...all ? ["--no-check"] : [],
        ...coverage
          ? [`--coverage=${profile}`, "--coverage-raw-data-only", `--preload=${KEPT_THREADS}`]
          : [],
        ...wanted,
      ],
      cwd: CHECKOUT,
      ...piped ? { stdout: "piped", stderr: "piped" } : {},
    }).spawn();
    running.add(child);
    void child.status.then(() => running.delete(child));
    return { child, report };
  };
  const besides = all && !bar ? BESIDE : [];
  const beside = besides.map((folders, nth) => start(`beside${nth}`, folders, true));
  const besideSaid = beside.map(({ child }) => child.output());
  const ignored = beside.length > 0 ? [`--ignore=${besides.flat()}`] : [];
  const tests = start("tests", [...paths, ...ignored], bar);
  // Ctrl-C reaches the tests as well, which clean up; this process only waits for them.
  Deno.addSignalListener("SIGINT", () => {});
  const deadline = setTimeout(() => {
    console.error(
      `the tests have not ended within ${DEADLINE_MS / 60_000} minutes, and are stopped:`,
    );
    for (const child of running) child.kill("SIGINT");
  }, DEADLINE_MS);
  if (bar) await showTests(paths, tests.child);
  let { success } = await tests.child.status;
  for (const { stdout, stderr, success: besideSuccess } of await Promise.all(besideSaid)) {
    success &&= besideSuccess;
    for (const said of [stdout, stderr]) console.log(new TextDecoder().decode(said));
  }
  clearTimeout(deadline);
  // A file that does not type-check ends the run before there is a report.
  const xml = (await Promise.all(
    // One that is missing counts as failed.
    [tests, ...beside].map(({ report }) => Deno.readTextFile(report).catch(() => "")),
  )).join("\n");
  const covered = coverage ? await coverageByRoom(profile) : undefined;
  await Deno.remove(folder, { recursive: true });

  const ends = [...xml.matchAll(/<testcase name="([^"]*)" classname="([^"]*)"[^>]*>\s*<(\/?\w+)/g)]
    .map(([, name, file, end]) => ({ test: `${file}: ${name}`, end }));
  const skipped = ends.filter(({ end }) => end === "skipped");
  const passed = ends.filter(({ end }) => end === "/testcase").length;
  // A file that cannot be loaded has no test in the report.
  let failed = Math.max(ends.length - passed - skipped.length, success ? 0 : 1);
  for (const { test } of skipped) {
    console.log(`skipped: ${test.replace(/&(\w+);/g, (whole, name) => ENTITIES[name] ?? whole)}`);
  }
  if (Deno.env.get("CI") === "true") failed += skipped.length;
  for (const line of covered?.table ?? []) console.log(line);
  if (covered && covered.total < LEAST && all) {
    console.log(`${covered.total.toFixed(1)} % of the lines ran, at least ${LEAST} % are wanted`);
    failed++;
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

async function typesHold(): Promise<boolean> {
  const check = new Deno.Command(Deno.execPath(), { args: TYPES, cwd: CHECKOUT });
  return (await check.spawn().status).success;
}
