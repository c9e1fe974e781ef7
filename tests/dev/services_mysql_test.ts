/** `deno task services --with mysql`: a MariaDB beside the servers that are always there. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import mysql from "mysql2/promise";
import { openTarget, parseConfig } from "writebehind";
import { asTarget } from "writebehind/cli/services.ts";
import { servicesFolder } from "writebehind/config/checkout.ts";
import { isAlive } from "writebehind/dev/servers/processes.ts";
import { readPasswords } from "writebehind/dev/servers/passwords.ts";
import {
  resetServices,
  runningServices,
  startServices,
  stopServices,
} from "writebehind/dev/servers/services.ts";
import { startTask } from "../support/processes.ts";
import { isInstalled } from "../support/programs.ts";
import { testFolder, waitFor } from "../support/servers.ts";

const ignore = !isInstalled("mariadbd");

/** Runs a statement as the user that the services give. */
async function run(url: string, sql: string): Promise<unknown> {
  const connection = await mysql.createConnection(url);
  try {
    return (await connection.query(sql))[0];
  } finally {
    await connection.end();
  }
}

/** Services with a root of their own, longer than the path of a socket may be; they stop with the test. */
async function ownServices() {
  const root = join(testFolder("root"), "long".repeat(30));
  await Deno.mkdir(root, { recursive: true });
  return {
    root,
    env: () => undefined,
    [Symbol.asyncDispose]: async () => void await stopServices({ root }),
  };
}

Deno.test(
  { name: "MariaDB runs beside the others, is found, reset and stopped", ignore },
  async () => {
    await using own = await ownServices();
    const first = await startServices({ ...own, more: ["mysql"] });
    assert.deepEqual(first.started.toSorted(), ["mysql", "postgres", "redis", "replica"]);
    const url = first.mysqlUrl!;
    assert.deepEqual(await run(url, "SELECT @@character_set_database AS charset"), [
      { charset: "utf8mb4" },
    ]);
    await assert.rejects(run(url, "SELECT * FROM mysql.global_priv"), /denied/);
    await assert.rejects(run(url, "CREATE DATABASE another"), /denied/);
    const { application } = await readPasswords(own.root);
    const { mysql: server } = await runningServices(own);
    if (Deno.build.os === "linux") {
      const seen = await Deno.readTextFile(`/proc/${server!.pid}/cmdline`);
      assert(!seen.includes(application), seen);
    }

    // Whoever does not ask for it finds it; one that has ended is started on its port again, with its data.
    assert.equal((await startServices(own)).mysqlUrl, url);
    await run(url, "CREATE TABLE kept AS SELECT 42 AS answer");
    Deno.kill(server!.pid, "SIGKILL");
    await waitFor(() => !isAlive(server!), { what: "MariaDB's end" });
    assert.deepEqual((await startServices(own)).started, []);
    assert.deepEqual((await startServices({ ...own, more: ["mysql"] })).started, ["mysql"]);
    assert.deepEqual(await run(url, "SELECT answer FROM kept"), [{ answer: 42 }]);

    assert((await resetServices(own)).includes("mysql"));
    await assert.rejects(run(url, "SELECT answer FROM kept"), /doesn't exist/);

    const { mysql: last } = await runningServices(own);
    assert.deepEqual(await stopServices(own), ["replica", "redis", "postgres", "mysql"]);
    assert(!isAlive(last!));
    const log = await Deno.readTextFile(join(servicesFolder(own.root), "mysql", "mariadb.log"));
    assert.match(log, /Shutdown complete/);
  },
);

Deno.test({ name: "the lines that are printed make MariaDB a target", ignore }, async () => {
  await using own = await ownServices();
  const { mysqlUrl } = await startServices({ ...own, more: ["mysql"] });
  const lines = asTarget(mysqlUrl!, own.root);
  assert(!lines.includes((await readPasswords(own.root)).application));
  const [, yaml, command] = /^(targets:[^]*?\n)\n[^]*^(export .*)$/m.exec(lines)!;
  const { stdout } = await new Deno.Command("sh", {
    args: ["-c", `${command}; printf %s "$MYSQL_PASSWORD"`],
  }).output();
  Deno.env.set("MYSQL_PASSWORD", new TextDecoder().decode(stdout));
  try {
    await using target = await openTarget(parseConfig(yaml!, "test.yaml"));
    await target.migrate("session");
    await target.check("session");
  } finally {
    Deno.env.delete("MYSQL_PASSWORD");
  }
});

Deno.test("where MariaDB is not installed, one line says so", async () => {
  await using missing = startTask(["services", "--with", "mysql"], {
    NO_COLOR: "1",
    PATH: dirname(Deno.execPath()),
  });
  assert.equal((await missing.status).code, 1);
  assert.match(
    missing.output(),
    /^there is no mariadbd on the PATH: install it \(Debian and Ubuntu: apt install mariadb-server[^\n]*\n$/,
  );
  await using other = startTask(["services", "--with", "oracle"], { NO_COLOR: "1" });
  assert.equal((await other.status).code, 2);
  assert.match(other.output(), /'oracle' is invalid\. Allowed choices are mysql/);
});
