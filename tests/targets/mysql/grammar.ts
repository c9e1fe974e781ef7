/**
 * MySQL itself could not be run. What a server of MariaDB was asked is parsed by a grammar of MySQL 8, that of Apache
 * ShardingSphere: so nothing that only MariaDB has gets into a statement.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import mysql from "mysql2/promise";
import { type ColumnConfig, configWith, parseConfig } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { COLUMN_TYPES } from "writebehind/config/columns.ts";
import type { MariadbServer } from "writebehind/dev/servers/mariadb.ts";
import { freshColumns } from "writebehind/targets/mysql/columns.ts";
import { hasJava, verdicts } from "../../support/grammar.ts";

/** The arguments of a server that logs each statement. */
export const LOGGING = ["--general-log=1", "--log-output=TABLE"];

const MYSQL_8 = { mariadb: false, collation: "utf8mb4_0900_bin", maxPacket: 2 ** 26 };

/** A typed column of each type, parking and indexed: MySQL reads their values by other functions than MariaDB. */
function columnsOfAllTypes(): readonly ColumnConfig[] {
  const columns = COLUMN_TYPES.map((type) => ({
    name: `a_${type}`,
    path: "$.a.b[0]",
    type,
    index: true,
  }));
  const config = parseConfig("", "f");
  return configWith(config, { entities: [{ ...config.entities[0]!, columns }] }).entities[0]!
    .columns;
}

/** What no case of the suite runs. */
const NOT_RUN = [
  "SELECT 1 FROM writebehind_offset WHERE stream = 's' AND last_id = '0-0' AND epoch = 1",
  "UPDATE writebehind_offset SET mark = NULL WHERE stream IN ('s')",
  "SELECT command AS command FROM information_schema.processlist WHERE id = IS_USED_LOCK('l')",
  "SELECT id AS id FROM information_schema.processlist WHERE id = IS_USED_LOCK('l') AND command = 'Sleep' AND time >= 5",
  "UPDATE writebehind_offset SET epoch = epoch + 1",
];

/** What MySQL takes, and this grammar does not: its KILL knows variables only. */
const BEYOND = ["KILL CONNECTION 1"];

/** What is for MariaDB only, and what stands in its place for MySQL. */
const FLAVOR: [string, string][] = [
  ["utf8mb4_nopad_bin", "utf8mb4_0900_bin"],
  [", max_statement_time = 0", ""],
  ["idle_transaction_timeout", "wait_timeout"],
];

/** What this grammar lets through, and MySQL 8 does not: a clause, and words that are reserved since. */
const NOT_MYSQL =
  /\bRETURNING\b|\bAS (cube|empty|except|function|groups|grouping|intersect|lag|lateral|lead|manual|of|over|parallel|qualify|rank|recursive|row_number|system|tablesample|window)\b/i;

const TEXT = /'(?:[^'\\]|\\[^]|'')*'/g;

/** What targets have asked a server that logs; of texts that differ in their values only, the shortest. */
async function asked({ host, port, user, password }: MariadbServer): Promise<string[]> {
  const connection = await mysql.createConnection({ host, port, user, password });
  // Not those of the suite itself: only a target begins a session so.
  const [rows] = await connection.query(
    `SELECT CONVERT(argument USING utf8mb4) AS text FROM mysql.general_log
      WHERE command_type IN ('Query', 'Prepare', 'Execute') AND thread_id IN
            (SELECT thread_id FROM mysql.general_log WHERE argument LIKE 'SET SESSION sql\\_mode%')`,
  );
  await connection.end();
  const found = new Map<string, string>();
  for (const { text } of rows as { text: string }[]) {
    const key = text.replaceAll(TEXT, "?").replaceAll(/\d+/g, "0").replaceAll(/(\S+, *)\1+/g, "$1");
    const known = found.get(key);
    if (known === undefined || known.length > text.length) found.set(key, text);
  }
  return [...found.values()].map((text) =>
    text.replaceAll(TEXT, (value) => value.length > 100 ? "'long'" : value)
  );
}

/** How the texts of statements in lib begin, up to their first value, and where they stand. */
async function beginnings(): Promise<[begin: string, file: string][]> {
  const folder = join(CHECKOUT, "lib/targets/mysql");
  const verbs =
    "SELECT|INSERT|UPDATE|DELETE|REPLACE|SET|ALTER|CREATE|DROP|START|COMMIT|ROLLBACK|KILL|" +
    "SAVEPOINT|RELEASE|LOCK|SHOW";
  const found: [string, string][] = [];
  for await (const { name } of Deno.readDir(folder)) {
    if (!name.endsWith(".ts")) continue;
    const code = await Deno.readTextFile(join(folder, name));
    for (
      const [, begin] of code.matchAll(new RegExp(`["\`]\\s*((?:${verbs})\\b[^\`"?$\\\\]*)`, "g"))
    ) {
      found.push([plain(begin!), name]);
    }
  }
  return found;
}

const plain = (text: string) => text.replaceAll(/\s+/g, " ").trim();

/**
 * Declares the tests.
 * @param server has logged a run of the whole suite; `null` where none is installed
 */
export function grammar(server: MariadbServer | null): void {
  const ignore = server === null || !hasJava;
  Deno.test({ name: "MySQL: all statements are of its grammar", ignore }, async () => {
    const log = await asked(server!);
    assert(log.length > 80, "run the whole file: the log is that of the suite's cases");
    for (const [mariadb] of FLAVOR) {
      assert(
        log.some((text) => text.includes(mariadb)),
        `${mariadb} is in no statement: mend FLAVOR`,
      );
    }
    const texts = [
      ...log.map((text) => FLAVOR.reduce((sum, [from, to]) => sum.replaceAll(from, to), text)),
      ...NOT_RUN,
      ...freshColumns("sessions", columnsOfAllTypes(), MYSQL_8),
    ];
    const [said, statements] = await verdicts("MySQL", texts);
    const wrong = texts.flatMap((text, at) => said[at] === "ok" ? [] : [`${said[at]}: ${text}`]);
    assert.deepEqual(wrong, []);
    assert(statements > 60, `only ${statements} statements`);
    assert.deepEqual(texts.filter((text) => NOT_MYSQL.test(text)), []);

    // MySQL names a column of these tables in capitals, unless the statement names it.
    const unnamed = texts.filter((text) => {
      const [, columns] = /^\s*SELECT (.*?) FROM information_schema/is.exec(text) ?? [];
      return columns?.split(",").some((column) => !/ AS /i.test(column));
    });
    assert.deepEqual(unnamed, []);

    const all = [...texts, ...BEYOND].map(plain);
    const missing = (await beginnings()).filter(([begin]) =>
      !all.some((text) => text.includes(begin))
    );
    assert.deepEqual(
      missing,
      [],
      "nothing runs these: add a case to the suite, or the text to NOT_RUN",
    );
    const run = log.map(plain);
    const stale = NOT_RUN.filter((text) => run.includes(plain(text)));
    assert.deepEqual(stale, [], "a case runs these: remove them from NOT_RUN");
  });

  Deno.test(
    { name: "MySQL: its grammar refuses what only MariaDB takes, or nobody", ignore },
    async () => {
      const refused = [
        "SELEC 1",
        "SELECT 1; SELEC 2",
        "SELECT id FROM t WHERE id = ?)",
        "CREATE OR REPLACE TABLE t (id INT)",
        "ALTER TABLE t ADD COLUMN IF NOT EXISTS a INT",
        "CREATE INDEX IF NOT EXISTS i ON t (a)",
        "ALTER TABLE t ADD COLUMN a INT GENERATED ALWAYS AS (1) PERSISTENT",
        "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
        "SELECT NEXT VALUE FOR s",
        "INSERT INTO t (id) SELECT i FROM JSON_TABLE(?, '$[*]' COLUMNS (i INT PATH)) AS j",
      ];
      const [said] = await verdicts("MySQL", refused);
      assert.deepEqual(refused.filter((_, at) => said[at] === "ok"), []);
      for (const text of ["DELETE FROM t RETURNING id", "SELECT 1 AS rank"]) {
        assert.match(
          text,
          NOT_MYSQL,
        );
      }
      const taken = [
        "INSERT INTO t (id) SELECT i FROM JSON_TABLE(?, '$[*]' COLUMNS (i INT PATH '$.i')) AS j",
        "START TRANSACTION; UPDATE t SET a = 1;\nCOMMIT",
      ];
      assert.deepEqual(await verdicts("MySQL", taken), [["ok", "ok"], 4]);
    },
  );
}
