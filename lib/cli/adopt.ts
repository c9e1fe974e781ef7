/** `deno task adopt`: lets partitions go on whose Redis, target or table is another one than before. */

import { WriteBehindError } from "../core/errors.ts";
import { adopt, type AdoptReport } from "../operate/adopt.ts";
import { connectRedis } from "../redis/connect.ts";
import { openTarget } from "../targets/open.ts";
import { configured, oneLine, perTarget, sayFor, targetNames } from "./common.ts";

export interface AdoptOptions {
  config?: string;
  entity: string;
  /** by default the first, or all that have some of the partitions */
  target?: string;
  yes?: boolean;
  json?: boolean;
}

/** Adopts, or shows what it would do: the exit status is 1 where that was not asked for by `--yes`. */
export async function runAdopt(options: AdoptOptions): Promise<void> {
  const { entity, yes = false, json } = options;
  const config = await configured(options.config, sayFor(options));
  await using redis = await connectRedis(config, { rights: "operator" });
  const reports: [string, AdoptReport][] = [];
  for (const name of targetNames(config, options.target)) {
    await using target = await openTarget(config, name);
    reports.push([name, await adopt(redis, target, config, entity, { dryRun: !yes })]);
  }
  const partitions = reports.flatMap(([, report]) => report.partitions);
  if (json) console.log(JSON.stringify(perTarget(reports), null, 2));
  else {
    for (const { stream, mismatches, before, offset } of partitions) {
      for (const { reason } of mismatches) console.log(oneLine(`${stream}: ${reason}`));
      const how = yes ? "goes on" : "would go on";
      console.log(`${oneLine(stream)} ${how} from offset ${offset} (it was at ${before})`);
    }
    if (partitions.length === 0) console.log("nothing to adopt");
    else if (yes) {
      console.log(
        "a sink goes on by itself; then run deno task verify --repair target, and add --yes",
      );
    }
  }
  if (!yes && partitions.length > 0) {
    throw new WriteBehindError("nothing was changed; --yes does it");
  }
}
