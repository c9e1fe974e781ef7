/** `deno task repartition`: gives an entity another number of partitions. */

import { configWith } from "../config/load.ts";
import { counted } from "../core/counted.ts";
import { ConfigError, reasonOf, WriteBehindError } from "../core/errors.ts";
import { InterruptedError } from "../core/interrupt.ts";
import { readState } from "../operate/repartition/state.ts";
import { repartition } from "../operate/repartition/repartition.ts";
import { connectRedis } from "../redis/connect.ts";
import { openTarget } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { configured, oneLine, sayFor } from "./common.ts";
import { progressOf } from "./progress.ts";

export interface RepartitionCommandOptions {
  config?: string;
  entity: string;
  to?: number;
  tagged?: boolean;
  back?: boolean;
  json?: boolean;
}

/** Repartitions, goes on with what was stopped, or takes it back. */
export async function runRepartition(
  options: RepartitionCommandOptions,
  signal: AbortSignal,
): Promise<void> {
  const { entity, to, tagged, back, json } = options;
  if (to === undefined && !back) throw new ConfigError("name the number of partitions by --to");
  const say = sayFor(options);
  const given = await configured(options.config, say);
  // The file has the number from before, or that from afterwards.
  const config = configWith(given, { streams: { partitions: "auto" } });
  await using redis = await connectRedis(config, { rights: "operator" });
  await using opened = new AsyncDisposableStack();
  const targets: Target[] = [];
  for (const { name } of config.targets) targets.push(opened.use(await openTarget(config, name)));
  signal.throwIfAborted();
  const progress = progressOf("documents");
  try {
    const report = await repartition(redis, targets, config, entity, {
      to,
      tagged,
      back,
      onStep: (what) => progress.above(() => say(oneLine(what))),
      onProgress: progress.update,
      signal,
    }).finally(progress.end);
    const { from, moved, movedMs } = report;
    if (json) console.log(JSON.stringify(report, null, 2));
    else if (report.back) console.log(`taken back: ${entity} has ${from} partitions, as before`);
    else {
      const rate = movedMs > 0 ? `, ${Math.round(1000 * moved / movedMs)} a second` : "";
      console.log(
        `${entity} has ${report.to} partitions, before ${from}; ${
          counted(moved, "document")
        } moved${rate}`,
      );
      const { partitions } = given.streams;
      if (partitions !== "auto" && String(partitions) !== report.to) {
        console.log(
          `the configuration says streams.partitions: ${partitions}; write ${
            report.to === "1 tagged" ? "auto" : `${report.to}, or auto,`
          } for every writer and sink`,
        );
      }
    }
  } catch (error) {
    const state = await readState(redis, config, entity).catch(() => null); // the error above counts
    if (state === null) throw error;
    const says =
      `${oneLine(reasonOf(error))}; writers of ${entity} wait, or work without an index: run ` +
      `deno task repartition --entity ${entity} --to ${state.to.partitions} again, and it goes on (${state.step})`;
    throw error instanceof InterruptedError
      ? new InterruptedError(says, { cause: error })
      : new WriteBehindError(says, { cause: error });
  }
}
