/** Row 17: a drain into MariaDB, where one is installed. */

import { createReadStream } from "node:fs";
import { join } from "node:path";
import mysql from "mysql2/promise";
import { createTable, openTarget, RedisWriteBehind } from "writebehind";
import { startMariadb } from "writebehind/dev/servers/mariadb.ts";
import { isInstalled } from "../support/programs.ts";
import { testFolder } from "../support/servers.ts";
import { interleave, perSecond, ratios, type Row, row } from "./measure.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const DRAIN = "drain into MariaDB";
const LOAD = "LOAD DATA LOCAL into MariaDB";
const ENGINEER = "INSERTs of 1,000 rows into MariaDB";
/** Rows of one INSERT that a good engineer writes. */
const ROWS = 1000;

export async function mysqlRows(bench: Workbench): Promise<Row[]> {
  if (!isInstalled("mariadbd")) {
    bench.step("MariaDB is not installed (Debian: mariadb-server): row 17 is left out");
    return [];
  }
  await bench.clear();
  const count = bench.sizes.events;
  const rows = [...uniqueInserts(count)];
  const backlog = await bench.fill(DRAIN, bench.config, rows, 0);
  const dir = testFolder("mariadb");
  const server = await startMariadb({ dir, password: "secret" });
  const login = { host: server.host, port: server.port, user: server.user, password: "secret" };
  const connection = await mysql.createConnection({
    ...login,
    charset: "utf8mb4",
    multipleStatements: true,
  });
  const file = join(dir, "rows.tsv");
  await Deno.writeTextFile(
    file,
    rows.map(({ docId, payload }, index) =>
      `${docId}\t${payload.replaceAll("\\", "\\\\")}\t${index + 1}\n`
    ).join(""),
  );
  try {
    /** An empty database with the sink's tables. */
    const anew = async () => {
      await connection.query("DROP DATABASE IF EXISTS bench; CREATE DATABASE bench; USE bench");
      const config = bench.with({
        targets: [{ name: "maria", kind: "mysql", ...login, database: "bench" }],
      });
      const target = await openTarget(config);
      await createTable(target, config, ENTITY);
      return { config, target };
    };
    const timed = async (work: () => Promise<unknown>) => {
      const since = performance.now();
      await work();
      const took = (performance.now() - since) / 1000;
      const [[found]] = await connection.query("SELECT COUNT(*) AS n FROM sessions") as unknown as [
        [{ n: number }],
      ];
      if (found.n !== count) throw new Error(`${found.n} rows of ${count}`);
      return count / took;
    };
    const rates = await interleave(
      [
        [DRAIN, async () => {
          await bench.restore(backlog);
          const { config, target } = await anew();
          await using _ = target;
          const sink = new RedisWriteBehind(bench.redis, target, config, ENTITY);
          return await timed(() => sink.drain());
        }],
        [LOAD, async () => {
          await (await anew()).target.close();
          return await timed(() =>
            connection.query({
              sql:
                "LOAD DATA LOCAL INFILE ? INTO TABLE sessions CHARACTER SET utf8mb4 (id, payload, version)",
              values: [file],
              infileStreamFactory: () => createReadStream(file),
            })
          );
        }],
        [ENGINEER, async () => {
          await (await anew()).target.close();
          return await timed(async () => {
            for (let at = 0; at < rows.length; at += ROWS) {
              await connection.query(
                "INSERT INTO sessions (id, payload, version) VALUES ? " +
                  "ON DUPLICATE KEY UPDATE payload = VALUES(payload), version = VALUES(version)",
                [
                  rows.slice(at, at + ROWS).map(({ docId, payload }, index) => [
                    docId,
                    payload,
                    at + index + 1,
                  ]),
                ],
              );
            }
          });
        }],
      ],
      bench.rounds,
      bench.step,
    );
    const [ours, load, engineer] = [rates(DRAIN), rates(LOAD), rates(ENGINEER)];
    const behind = (base: readonly number[]) => `${perSecond(ours)} / ${perSecond(base)}`;
    return [
      row("17a", "drain into MariaDB / LOAD DATA LOCAL of the same rows", ratios(ours, load), {
        atLeast: 0.6,
      }, behind(load)),
      row("17b", "drain into MariaDB / INSERTs of 1,000 rows", ratios(ours, engineer), {
        atLeast: 1.5,
      }, behind(engineer)),
    ];
  } finally {
    await connection.end();
    await server.stop();
    await Deno.remove(dir, { recursive: true });
  }
}
