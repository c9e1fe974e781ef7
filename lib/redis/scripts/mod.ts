/**
 * The Lua scripts, each one atomic step in Redis.
 * @module
 */

import type { Redis } from "../client.ts";
import type { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import append from "./append.lua" with { type: "text" };
import askVerb from "./ask.lua" with { type: "text" };
import cachedVerb from "./cached.lua" with { type: "text" };
import changeVerb from "./change.lua" with { type: "text" };
import common from "./common.lua" with { type: "text" };
import countVerb from "./count.lua" with { type: "text" };
import deleteVerb from "./delete.lua" with { type: "text" };
import dropVerb from "./drop.lua" with { type: "text" };
import evicts from "./evicts.lua" with { type: "text" };
import expireVerb from "./expire.lua" with { type: "text" };
import fillVerb from "./fill.lua" with { type: "text" };
import forwardVerb from "./forward.lua" with { type: "text" };
import identityVerb from "./identity.lua" with { type: "text" };
import ids from "./ids.lua" with { type: "text" };
import insertVerb from "./insert.lua" with { type: "text" };
import keepVerb from "./keep.lua" with { type: "text" };
import keepingVerb from "./keeping.lua" with { type: "text" };
import lastId from "./last_id.lua" with { type: "text" };
import lookVerb from "./look.lua" with { type: "text" };
import lowerVerb from "./lower.lua" with { type: "text" };
import mendVerb from "./mend.lua" with { type: "text" };
import moveVerb from "./move.lua" with { type: "text" };
import noteVerb from "./note.lua" with { type: "text" };
import numbers from "./numbers.lua" with { type: "text" };
import readVerb from "./read.lua" with { type: "text" };
import registerVerb from "./register.lua" with { type: "text" };
import registration from "./registration.lua" with { type: "text" };
import resending from "./resending.lua" with { type: "text" };
import resendVerb from "./resend.lua" with { type: "text" };
import restoreVerb from "./restore.lua" with { type: "text" };
import settingsVerb from "./settings.lua" with { type: "text" };
import settleVerb from "./settle.lua" with { type: "text" };
import takeVerb from "./take.lua" with { type: "text" };
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

/** A verb's own part comes between the checks that all verbs make and the event that all verbs append. */
const verbScript = (name: string, verb: string) => script(name, `${common}\n${verb}\n${append}`);

export const insertScript: Script = verbScript("insert", `${numbers}\n${ids}\n${insertVerb}`);
export const updateScript: Script = verbScript("update", `${numbers}\n${updateVerb}`);
export const deleteScript: Script = verbScript("delete", deleteVerb);
export const settingsScript: Script = script("settings", settingsVerb);
export const trimScript: Script = script("trim", `${registration}\n${trimVerb}`);
export const forwardScript: Script = script("forward", `${lastId}\n${forwardVerb}`);
/** Notes the identity of the data. */
export const identityScript: Script = script("identity", identityVerb);
/** Registers a target with a stream. */
export const registerScript: Script = script("register", `${registration}\n${registerVerb}`);
export const resendScript: Script = script("resend", `${resending}\n${resendVerb}`);
export const restoreScript: Script = script("restore", `${numbers}\n${restoreVerb}`);
/** Notes whether a stream's last id is past what a version can hold. */
export const lookScript: Script = script("look", lookVerb);
/** Puts a copy in a stream's place, and resends documents. */
export const mendScript: Script = script("mend", `${lastId}\n${resending}\n${mendVerb}`);
/** Tells who may ask a cache's target for documents that Redis does not have. */
export const askScript: Script = script("ask", `${evicts}\n${askVerb}`);
/** Brings documents into a cache from their rows. */
export const fillScript: Script = script("fill", `${numbers}\n${ids}\n${evicts}\n${fillVerb}`);
/** Lets a cache evict what its target has applied. */
export const settleScript: Script = script("settle", `${ids}\n${settleVerb}`);
/** Notes that a cache's target has lost commits. */
export const lowerScript: Script = script("lower", lowerVerb);
/** Removes documents that a cache could evict. */
export const dropScript: Script = script("drop", dropVerb);
/** Takes a step of turning a cache on or off. */
export const cachedScript: Script = script("cached", cachedVerb);
/** Notes documents of which a writer knew of no cache. */
export const noteScript: Script = script("note", `${ids}\n${noteVerb}`);
/** Lets a cache evict documents that equal their rows, or keeps them. */
export const keepingScript: Script = script("keeping", keepingVerb);
/** Deletes documents and receipts that are due. */
export const expireScript: Script = script("expire", expireVerb);
/** Keeps a lock, or gives it back. */
export const keepScript: Script = script("keep", keepVerb);
/** Takes a step of a repartition. */
export const changeScript: Script = script("change", changeVerb);
/** Renames keys. */
export const moveScript: Script = script("move", moveVerb);
/** Reads keys as they are. */
export const takeScript: Script = script("take", takeVerb);
/** Counts entries of a stream, without sending them. */
export const countScript: Script = script("count", countVerb);
export const readScript: Script = script("read", readVerb);

/** Whether Redis answered that it does not know the script, which means that it ran nothing. */
export function isNoScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("NOSCRIPT");
}

/**
 * Runs a script by its hash; sends its source where Redis does not know it.
 * @param evalsha sends the hash; by default like any other command of the connection
 */
export async function runScript(
  redis: Redis,
  { source, sha }: Script,
  keys: string[],
  args: (string | Buffer)[],
  evalsha: () => Promise<unknown> = () => redis.evalsha(sha, keys.length, ...keys, ...args),
): Promise<unknown> {
  try {
    return await evalsha();
  } catch (error) {
    if (!isNoScript(error)) throw error;
    // Nothing has run yet, so this does not run it twice.
    return await redis.eval(source, keys.length, ...keys, ...args);
  }
}
