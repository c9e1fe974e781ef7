/** What the pages name exists: tasks, files, headings, messages. */

import assert from "node:assert/strict";
import { dirname, join, normalize } from "node:path";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { LINES } from "writebehind/core/log.ts";
import { parse } from "yaml";
import { MEANINGLESS } from "../targets/kafka/meaningless.ts";
import { SUITE } from "../targets/conformance/mod.ts";
import { sharing } from "../targets/conformance/sharing.ts";
import { anchorOf, commandsOf, page, PAGES, section } from "./pages.ts";

const { tasks } = JSON.parse(await Deno.readTextFile(join(CHECKOUT, "deno.json"))) as {
  tasks: Record<string, { description: string }>;
};
/** Those of docker-compose.yml; tests/ops/containers_test.ts reads the rest of it. */
const profiles = new Set(
  Object.values(
    parse(await Deno.readTextFile(join(CHECKOUT, "docker-compose.yml"))).services as {
      profiles?: string[];
    }[],
  ).flatMap(({ profiles }) => profiles ?? []),
);
const suite = Object.entries({ ...SUITE, sharing })
  .flatMap(([part, cases]) => Object.keys(cases).map((name) => [part, name] as const));
const pipeline = await Deno.readTextFile(
  join(CHECKOUT, "tests/targets/conformance/pipeline.ts"),
);

const kafka = await Promise.all(
  [...Deno.readDirSync(join(CHECKOUT, "tests/targets/kafka"))]
    .filter(({ name }) => name.endsWith("_test.ts"))
    .map(({ name }) => Deno.readTextFile(join(CHECKOUT, "tests/targets/kafka", name))),
).then((texts) => texts.join());

/** wire.md is for redis-cli: its blocks are run by wire_test.ts. */
const pages = PAGES.filter(({ path }) => path !== "docs/wire.md");

Deno.test("every command on the pages is a task, or docker compose", async () => {
  const commands = pages.flatMap(({ text }) => commandsOf(text));
  assert(commands.length >= 15);
  for (const command of commands) {
    const compose = /^docker compose((?: --profile \w+)*) up -d(?: --scale \w+=\d)?$/.exec(command);
    if (compose) {
      for (const [, profile] of compose[1]!.matchAll(/--profile (\w+)/g)) {
        assert(profiles.has(profile!), command);
      }
      continue;
    }
    const test = /^deno test -A (\S+)/.exec(command)?.[1];
    if (test) {
      await Deno.stat(join(CHECKOUT, test));
      continue;
    }
    const [, task] = command.match(
      /^(?:[A-Z_]+=\S+ )*(?:npx -y (?:--offline )?deno@2\.9\.6|deno) task ([\w-]+)/,
    ) ?? [];
    assert(task !== undefined && task in tasks, command);
  }
});

Deno.test("the editor's tasks are tasks", async () => {
  const text = await Deno.readTextFile(join(CHECKOUT, ".vscode", "tasks.json"));
  const editor = JSON.parse(text) as { tasks: { command: string }[] };
  for (const { command } of editor.tasks) {
    assert((/^deno task ([\w-]+)/.exec(command)?.[1] ?? "") in tasks, command);
  }
});

Deno.test("operating.md has a line for each task, and for nothing else", () => {
  const named = [...section("docs/operating.md", "## Tasks").matchAll(/^\| `([\w-]+)` +\| /gm)];
  assert.deepEqual(named.map(([, name]) => name).sort(), Object.keys(tasks).sort());
});

Deno.test("operating.md has a line for each event, and for nothing else", () => {
  const table = section("docs/operating.md", "## Events and the log");
  const named = [...table.matchAll(/^\| `(\w+)` +\| /gm)].map(([, name]) => name!);
  assert.deepEqual(named.sort(), Object.keys(LINES).sort());
});

Deno.test("the pages' files and headings are there", async () => {
  const anchors = new Map(PAGES.map(({ path, text }) => [
    path,
    new Set([...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => anchorOf(heading!))),
  ]));
  let links = 0;
  for (const { path, text } of PAGES) {
    for (
      const [, link, picture] of text.matchAll(
        /\]\(((?!https?:)[^)]+)\)|(?:src|srcset)="([^"]+)"/g,
      )
    ) {
      links++;
      const [file = "", anchor] = (link ?? picture)!.split("#");
      const target = file === "" ? path : normalize(join(dirname(path), file));
      await Deno.stat(join(CHECKOUT, target)).catch(() => {
        throw new Error(`${path} links to ${target}, which is not there`);
      });
      if (anchor === undefined) continue;
      assert(anchors.get(target)?.has(anchor), `${path} links to ${target}#${anchor}: no heading`);
    }
  }
  assert(links > 20);
});

Deno.test("targets.md: each cell of its tables is a test", () => {
  const text = page("docs/targets.md");
  const cells = [...text.matchAll(/`(PostgreSQL|SQLite|MariaDB|Kafka): ([^`]+)`/g)];
  assert(cells.length > 60);
  const known = suite.map(([part, name]) => `${part}: ${name}`);
  for (const [, kind, name] of cells) {
    const ofSuite = known.includes(name!) && !(kind === "Kafka" && MEANINGLESS.includes(name!));
    const ofKafka = kind === "Kafka" && kafka.includes(`: ${name}"`);
    assert(ofSuite || ofKafka || pipeline.includes(`: ${name}`), `no test: ${name}`);
  }
  const told = [...section("docs/targets.md", "## Kafka").matchAll(/^- `([^`]+)`:/gm)];
  assert.deepEqual(told.map(([, name]) => name).sort(), MEANINGLESS.toSorted());
});

Deno.test("README.md is for newcomers: at most 150 lines", () => {
  const lines = page("README.md").trimEnd().split("\n").length;
  assert(lines <= 150, `it has ${lines}: move something to docs/`);
});

Deno.test("architecture.md has a line for every file of lib, and for nothing else", async () => {
  const named: string[] = [];
  for (
    const [, room, table] of section("docs/architecture.md", "## The rooms").matchAll(
      /^### (\w+)\/\n([^]*?)(?=^### |$(?![^]))/gm,
    )
  ) {
    for (const [, cell] of table!.matchAll(/^\| (`[^|]+`) +\|/gm)) {
      for (const [, file] of cell!.matchAll(/`([^`]+)`/g)) named.push(`${room}/${file}`);
    }
  }
  const files = await filesOf(join(CHECKOUT, "lib"));
  const without = files.filter((file) => !named.includes(file));
  const gone = named.filter((file) => !files.includes(file));
  assert.deepEqual({ without, gone }, { without: [], gone: [] }, "mend the tables of its rooms");
});

/** The files in the folders of a folder, by their paths in it. */
async function filesOf(folder: string): Promise<string[]> {
  const files: string[] = [];
  const walk = async (path: string) => {
    for await (const { name, isDirectory } of Deno.readDir(join(folder, path))) {
      if (isDirectory) await walk(join(path, name));
      else if (path !== "") files.push(join(path, name));
    }
  };
  await walk("");
  return files;
}

/** All source of a folder. */
async function sourceOf(folder: string): Promise<string> {
  let all = "";
  for await (const { name, isDirectory, isFile } of Deno.readDir(folder)) {
    const path = join(folder, name);
    if (isDirectory) all += await sourceOf(path);
    else if (isFile && /\.(ts|lua)$/.test(name)) all += await Deno.readTextFile(path);
  }
  return all;
}

Deno.test("messages.md quotes only messages that lib has", async () => {
  const source = (await sourceOf(join(CHECKOUT, "lib")))
    // The pieces of one text: "a " + "b", or `a ` + `b`.
    .replaceAll(/["`'] *\+\s*["`']/g, "")
    .replaceAll("\\`", "`");
  const quoted = [
    ...page("docs/messages.md").matchAll(/^\| `([^`]+)`/gm),
  ].map(([, message]) => message!);
  assert(quoted.length > 60);
  const gone = quoted.filter((message) =>
    !message.split("…").every((part) =>
      source.includes(part.replace(/^[\s;:,.)(]+|[\s;:,.(]+$/g, ""))
    )
  );
  assert.deepEqual(gone, [], "change these messages in docs/messages.md: lib has others now");
});
