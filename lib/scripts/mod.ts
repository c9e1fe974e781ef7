/**
 * The Lua scripts, each one atomic step in Redis.
 * @module
 */

import { createHash } from "node:crypto";
import type { Redis } from "ioredis";
import common from "./common.lua" with { type: "text" };
import deleteVerb from "./delete.lua" with { type: "text" };
import forwardVerb from "./forward.lua" with { type: "text" };
import insertVerb from "./insert.lua" with { type: "text" };
import readVerb from "./read.lua" with { type: "text" };
import resendVerb from "./resend.lua" with { type: "text" };
import restoreVerb from "./restore.lua" with { type: "text" };
import settingsVerb from "./settings.lua" with { type: "text" };
import trimVerb from "./trim.lua" with { type: "text" };
import updateVerb from "./update.lua" with { type: "text" };

/** A script and the SHA-1 by which Redis knows it. */
export interface Script {
  name: string;
  source: string;
  sha: string;
}

function script(name: string, source: string): Script {
  return { name, source, sha: createHash("sha1").update(source).digest("hex") };
}

export const insertScript: Script = script("insert", `${common}\n${insertVerb}`);
export const updateScript: Script = script("update", `${common}\n${updateVerb}`);
export const deleteScript: Script = script("delete", `${common}\n${deleteVerb}`);
export const settingsScript: Script = script("settings", settingsVerb);
export const trimScript: Script = script("trim", trimVerb);
export const forwardScript: Script = script("forward", forwardVerb);
export const resendScript: Script = script("resend", resendVerb);
export const restoreScript: Script = script("restore", restoreVerb);
export const readScript: Script = script("read", readVerb);

/** Whether Redis answered that it does not know the script, which means that it ran nothing. */
export function isNoScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("NOSCRIPT");
}

/** Runs a script by its hash; sends its source where Redis does not know it. */
export async function runScript(
  redis: Redis,
  script: Script,
  keys: string[],
  args: string[],
): Promise<unknown> {
  try {
    return await redis.evalsha(script.sha, keys.length, ...keys, ...args);
  } catch (error) {
    if (!isNoScript(error)) throw error;
    // Nothing ran yet, so this is the first time.
    return await redis.eval(script.source, keys.length, ...keys, ...args);
  }
}
