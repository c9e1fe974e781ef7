/** Row 15: a drain into a SQLite file. */

import { DatabaseSync } from "node:sqlite";
import { createTable, openTarget, RedisWriteBehind } from "writebehind";
import { testFolder } from "../support/servers.ts";
import { interleave, perSecond, ratios, type Row, row } from "./measure.ts";
import { ENTITY, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const DRAIN = "drain into SQLite";
const INSERT = "INSERT into SQLite";
/** Rows of one prepared INSERT. */
const ROWS = 64;

export async function sqliteRows(bench: Workbench): Promise<Row[]> {
  await bench.clear();
  const count = bench.sizes.events;
  const rows = [...uniqueInserts(count)];
  const backlog = await bench.fill(DRAIN, bench.config, rows, 0);
  let files = 0;
  const newFile = () => {
    const path = `${testFolder("sqlite")}/${++files}.db`;
    return { path, config: bench.with({ targets: [{ name: "local", kind: "sqlite", path }] }) };
  };
  const rates = await interleave(
    [
      [DRAIN, async () => {
        await bench.restore(backlog);
        const { config } = newFile();
        await using target = await openTarget(config);
        await createTable(target, config, ENTITY);
        const sink = new RedisWriteBehind(bench.redis, target, config, ENTITY);
        const since = performance.now();
        const { events } = await sink.drain();
        const took = (performance.now() - since) / 1000;
        if (events !== count) throw new Error(`drained ${events} events of ${count}`);
        return count / took;
      }],
      [INSERT, async () => {
        const { path, config } = newFile();
        {
          await using target = await openTarget(config);
          await createTable(target, config, ENTITY);
        }
        using db = new DatabaseSync(path);
        const since = performance.now();
        insert(db, rows);
        return count / ((performance.now() - since) / 1000);
      }],
    ],
    bench.rounds,
    bench.step,
  );
  const [ours, base] = [rates(DRAIN), rates(INSERT)];
  return [
    row(
      "15",
      "drain into SQLite / prepared INSERTs of the same rows in one transaction",
      ratios(ours, base),
      { atLeast: 0.8 },
      `${perSecond(ours)} / ${perSecond(base)}`,
    ),
  ];
}

function insert(db: DatabaseSync, rows: readonly { docId: string; payload: string }[]): void {
  const now = new Date().toISOString();
  const sql = (count: number) =>
    `INSERT INTO sessions (id, payload, created_at, updated_at, version) VALUES ${
      Array(count).fill("(?, ?, ?, ?, ?)").join()
    }`;
  const many = db.prepare(sql(ROWS));
  db.exec("PRAGMA synchronous = FULL; BEGIN");
  for (let at = 0; at < rows.length; at += ROWS) {
    const part = rows.slice(at, at + ROWS);
    const statement = part.length === ROWS ? many : db.prepare(sql(part.length));
    statement.run(
      ...part.flatMap(({ docId, payload }, index) => [docId, payload, now, now, at + index + 1]),
    );
  }
  db.exec("COMMIT");
}
