/** Row 11: comparing all documents with their rows. */

import { documentKey, verify } from "writebehind";
import { drained } from "./drain.ts";
import { interleave, perSecond, ratios, type Row, row, seconds } from "./measure.ts";
import { ENTITY, send, type Workbench } from "./workbench.ts";
import { uniqueInserts } from "./workload.ts";

const VERIFY = "verify";
const READ = "SELECT and JSON.MGET";

const CHUNK = 1000;

export async function verifyRows(bench: Workbench): Promise<Row[]> {
  const { redis, pool, config, sizes: { verified }, rounds, step } = bench;
  await bench.clear();
  const backlog = await bench.fill("verified", config, uniqueInserts(verified), verified);
  await drained(bench, backlog);
  step("filling: documents");
  let pipeline = redis.pipeline();
  let written = 0;
  for (const { docId, payload } of uniqueInserts(verified)) {
    pipeline.call("JSON.SET", documentKey(config, ENTITY, docId), "$", payload);
    if (++written % CHUNK === 0 || written === verified) {
      await send(pipeline);
      pipeline = redis.pipeline();
    }
  }
  await pool.query("VACUUM ANALYZE sessions");

  const compareAll = async () => {
    const { equal, rows } = await verify(redis, pool, config, ENTITY);
    if (equal < verified || rows !== verified) {
      throw new Error(`verify found ${equal} equal documents and ${rows} rows of ${verified}`);
    }
  };
  const rates = await interleave(
    [
      [VERIFY, async () => verified / await seconds(compareAll)],
      [READ, async () => verified / await seconds(() => readAll(bench))],
    ],
    rounds,
    step,
  );
  const [ours, base] = [rates(VERIFY), rates(READ)];
  const name = `verify of ${
    verified.toLocaleString("en")
  } documents / a plain SELECT plus JSON.MGET`;
  const note = `${perSecond(ours)} / ${perSecond(base)}`;
  return [row("11", name, ratios(ours, base), { atLeast: 0.5 }, note)];
}

/** What no comparison can do without: reading both sides. */
async function readAll({ redis, pool, config }: Workbench): Promise<void> {
  const { rows } = await pool.query<[string, string]>({
    text: "SELECT id, payload::text FROM sessions",
    rowMode: "array",
  });
  for (let at = 0; at < rows.length; at += CHUNK) {
    const keys = rows.slice(at, at + CHUNK).map(([id]) => documentKey(config, ENTITY, id));
    await redis.call("JSON.MGET", ...keys, ".");
  }
}
