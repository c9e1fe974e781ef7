/**
 * H2 in its mode for Oracle, by its port for PostgreSQL's clients, as a session of Oracle. It is not Oracle: it takes some
 * of its grammar, and '' for NULL.
 */

import { join } from "node:path";
import pg from "pg";
import { answers } from "writebehind/config/probe.ts";
import { HOST, startServer } from "writebehind/dev/servers/server.ts";
import { killServer } from "writebehind/dev/servers/server.ts";
import type { Kind, OracleSession, Statement, Values } from "writebehind/targets/oracle/session.ts";
import { tableStatements } from "writebehind/targets/oracle/statements.ts";
import { jar } from "../../support/maven.ts";
import { testFolder } from "../../support/servers.ts";

/** H2 needs to be told what a parameter is; by this port, bytes travel as text. */
const AS: Record<Kind, (parameter: string) => string> = {
  text: (parameter) => `CAST(${parameter} AS VARCHAR)`,
  clob: (parameter) => `CAST(${parameter} AS CLOB)`,
  number: (parameter) => `CAST(${parameter} AS NUMERIC(25, 6))`,
  raw: (parameter) => `HEXTORAW(CAST(${parameter} AS VARCHAR))`,
  blob: (parameter) => `CAST(HEXTORAW(CAST(${parameter} AS VARCHAR)) AS BLOB)`,
};

/** A server in a process of its own. */
export async function startH2() {
  const dir = testFolder("h2");
  await Deno.mkdir(dir);
  const classes = await jar("com.h2database:h2:2.4.240");
  const server = await startServer({
    title: "H2",
    log: join(dir, "h2.log"),
    cwd: dir,
    command: (port) => [
      ...["java", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", classes, "org.h2.tools.Server"],
      ...["-pg", "-pgPort", String(port), "-baseDir", dir, "-ifNotExists"],
    ],
    lacks: async (_, port) => await answers(HOST, port) ? undefined : "does not listen",
    portTaken: "in use",
    giveUp: "SIGKILL",
  }, undefined);
  return { ...server, [Symbol.asyncDispose]: () => killServer(server) };
}

/** A session, and what only tests ask. */
export interface H2Session extends OracleSession, AsyncDisposable {
  run(sql: string): Promise<Record<string, unknown>[]>;
}

/** An empty database of a server; it is gone with its last session. */
export async function databaseOn({ port }: { port: number }, table: string) {
  const database = `mem:test_${crypto.randomUUID().replaceAll("-", "")}`;
  const session = async (): Promise<H2Session> => {
    const client = new pg.Client({ host: HOST, port, user: "sa", password: "sa", database });
    await client.connect();
    const run = async (sql: string) => (await client.query(sql)).rows;
    await run("SET MODE Oracle");
    let begun = false;
    const ask = async ({ sql, binds }: Statement, values: Values) => {
      if (!begun) await client.query("BEGIN");
      begun = true;
      const names = Object.keys(binds);
      // The same for what it gives.
      const bytes = sql.replace(/\bpayload AS/, "CAST(payload AS VARBINARY(1000000)) AS");
      const text = bytes.replaceAll(/'[^']*'|:(\w+)/g, (found, name?: string) => {
        if (name === undefined) return found;
        const at = names.indexOf(name);
        if (at === -1) throw new Error(`${name} is no parameter of ${sql}`);
        return AS[binds[name]!](`$${at + 1}`);
      });
      const sent = names.map((name) => {
        const value = values[name];
        return value instanceof Uint8Array ? value.toHex() : value;
      });
      return await client.query(text, sent);
    };
    const end = async (how: string) => {
      if (begun) await client.query(how);
      begun = false;
    };
    return {
      run,
      query: async (statement, values) => (await ask(statement, values)).rows,
      change: async (statement, many) => {
        let changed = 0;
        for (const values of many) changed += (await ask(statement, values)).rowCount ?? 0;
        return changed;
      },
      commit: () => end("COMMIT"),
      rollback: () => end("ROLLBACK"),
      [Symbol.asyncDispose]: () => client.end(),
    };
  };
  const first = await session();
  for (const { sql } of tableStatements(table)) await first.run(sql);
  return { first, session };
}
