/** `deno task mend`: removes entries whose ids no version can hold. */

import { counted } from "../core/counted.ts";
import { reasonOf, WriteBehindError } from "../core/errors.ts";
import { mendStreams } from "../operate/mend.ts";
import { connectRedis } from "../redis/connect.ts";
import { openTarget } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { configured, oneLine, quoted, sayFor } from "./common.ts";

export interface MendOptions {
  config?: string;
  entity: string;
  yes?: boolean;
  json?: boolean;
}

/** Mends, or shows what it would do: the exit status is 1 where that was not asked for by `--yes`. */
export async function runMend(options: MendOptions): Promise<void> {
  const { entity, yes = false, json } = options;
  const config = await configured(options.config, sayFor(options));
  await using redis = await connectRedis(config, { rights: "operator" });
  await using opened = new AsyncDisposableStack();
  // The offset of each may stand at such an entry.
  const targets: Target[] = [];
  let refusal: unknown;
  for (const { name } of config.targets) {
    try {
      const target = opened.use(await openTarget(config, name));
      await target.check(entity);
      targets.push(target);
    } catch (error) {
      refusal ??= error;
      if (config.targets.length === 1) break;
      sayFor(options)(
        `${name} is left out, and its sink moves its offset back once it is there: ${
          oneLine(reasonOf(error))
        }`,
      );
    }
  }
  if (targets.length === 0) throw refusal;
  const report = await mendStreams(redis, targets, config, entity, { dryRun: !yes });
  if (json) console.log(JSON.stringify(report, null, 2));
  else {
    for (const { stream, streamId, fields } of report.entries) {
      const shown = fields.slice(0, 12).map((field) => quoted(field.slice(0, 80))).join(" ");
      console.log(`${oneLine(stream)} ${streamId}: ${shown}`);
    }
    const done = yes ? "" : "would be ";
    console.log(
      report.streams.length === 0
        ? "nothing to mend"
        : `${done}mended: ${report.streams.join(", ")}; ${
          counted(report.entries.length, "entry")
        } removed, ` +
          `${counted(report.resent, "document")} resent`,
    );
  }
  if (!yes && report.streams.length > 0) {
    throw new WriteBehindError("nothing was changed; --yes does it");
  }
}
