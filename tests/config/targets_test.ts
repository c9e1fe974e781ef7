import assert from "node:assert/strict";
import { ConfigError, describeServers, parseConfig, resolveServers } from "writebehind";

const targets = (text: string) => parseConfig(`targets:\n${text}`, "test.yaml").targets;

Deno.test("targets: one entry; without it, the section postgresql", () => {
  const byDefault = [{ name: "postgresql", kind: "postgresql" }];
  assert.deepEqual(parseConfig("", "test.yaml").targets, byDefault);
  assert.deepEqual(targets("  - { name: postgresql, kind: postgresql }"), byDefault);
  assert.deepEqual(targets("  - { name: local, kind: sqlite, path: ./data.db }"), [
    { name: "local", kind: "sqlite", path: "./data.db" },
  ]);
});

Deno.test("targets: a mistake is told with its line and key", () => {
  const cases: [text: string, message: RegExp][] = [
    ["  - { name: local, kind: sqlite }", /test\.yaml:2: targets\[0\]\.path: expected the path/],
    ["  - { name: pg, kind: postgresql, path: x }", /targets\[0\]\.path: only the kind sqlite/],
    ["  - { name: a, kind: oracle }", /targets\[0\]\.kind: expected postgresql or sqlite/],
    ["  - { name: A B, kind: sqlite, path: x }", /targets\[0\]\.name: expected a name/],
    ["  - { name: a, kind: sqlite, path: ':memory:' }", /targets\[0\]\.path: expected the path/],
    [
      "  - { name: a, kind: postgresql }\n  - { name: b, kind: postgresql }",
      /targets: expected one/,
    ],
  ];
  for (const [text, message] of cases) {
    assert.throws(
      () => targets(text),
      (error: Error) => error instanceof ConfigError && message.test(error.message),
      text,
    );
  }
});

Deno.test("targets: with a SQLite file no database is asked for, and the file is named", async () => {
  const config = parseConfig(
    "redis: { host: cache }\ntargets: [{ name: local, kind: sqlite, path: some/data.db }]",
    "test.yaml",
  );
  const root = await Deno.makeTempDir();
  const variables: Record<string, string> = { DATABASE_URL: "no address at all" };
  const servers = await resolveServers(config, { root, env: (name) => variables[name] });
  assert.equal(
    describeServers(servers),
    `Redis redis://cache:6379 (config file), SQLite ${Deno.cwd()}/some/data.db (config file)`,
  );
  await Deno.remove(root);
});
