/** What must hold after a repartition, on one Redis and in a cluster. */

import assert from "node:assert/strict";
import { type Config, readStatus, type RedisConnection, type Target, verify } from "writebehind";
import type { Author } from "../faults/author.ts";
import { versionsOf } from "../faults/ledger.ts";
import { type Pipeline, rowsOf, sorted } from "./pipeline.ts";
import { environmentOf, type RunningCommand, startTask } from "./processes.ts";
import { waitFor } from "./servers.ts";

/** Every call that was answered is in the target once, in order, as its receipt said. */
export async function assertOnce({ pool }: Pick<Pipeline, "pool">, author: Author) {
  const isOurs = ([id]: [string, string]) => author.written.has(id);
  assert.deepEqual(sorted(await rowsOf({ pool })).filter(isOurs), sorted(author.documents()));
  const versions = await versionsOf({ pool });
  for (const [id, { document, version }] of author.written) {
    if (document !== null) assert.equal(versions.get(id), version, `the version of ${id}`);
  }
  const { rows: [rows] } = await pool.query(`
    SELECT count(*) FILTER (WHERE nth > 1)::int AS twice, count(*) FILTER (WHERE version < previous)::int AS backwards
      FROM (SELECT version, row_number() OVER (PARTITION BY id, version ORDER BY place) AS nth,
                   lag(version) OVER (PARTITION BY id ORDER BY place) AS previous FROM ledger_rows) AS noted`);
  assert.deepEqual(rows, { twice: 0, backwards: 0 });
}

/** Redis and the target hold the same, and nobody complains. */
export async function assertSame(
  redis: RedisConnection,
  target: Target,
  config: Config,
  documents: number,
) {
  const report = await verify(redis, target, config, "session", { settleMs: 10_000 });
  assert.deepEqual([report.mismatches, report.counts.behind, report.documents], [[], 0, documents]);
  const status = await readStatus(redis, target, config, "session");
  for (const { stuck, doubts, warnings } of status) {
    assert.deepEqual([stuck, doubts, warnings], [[], [], []]);
  }
}

/** Starts a repartition, and kills it at one of its places. */
export async function killAt(
  place: string,
  args: string[],
  env: Record<string, string>,
  look: (command: RunningCommand) => Promise<unknown> = () => Promise.resolve(),
) {
  await using killed = startTask(["repartition", ...args], {
    ...env,
    WRITEBEHIND_FAILPOINT: `repartition ${place}`,
  });
  const name = place.split(":")[0];
  await waitFor(() => killed.output().includes(`failpoint repartition ${name}`), {
    what: `${place}: ${killed.output()}`,
    deadlineMs: 60_000,
  });
  await look(killed);
  killed.kill("SIGKILL");
  await killed.status;
}

/** The lock of a repartition, which would end within seconds. */
export const LOCK = "stream:settings:session:repartition:lock";

/** Kills a repartition at one of its places, where `status` says that it is under way, and ends its lock. */
export async function killUnderWay(
  place: string,
  args: string[],
  { redis, target, config }: { redis: RedisConnection; target: Target; config: Config },
) {
  await killAt(place, args, environmentOf(config), async () => {
    const [status] = await readStatus(redis, target, config, "session");
    assert.match(status!.warnings.join(), /a repartition from \d to \d is under way/);
  });
  await redis.del(LOCK);
}
