/**
 * The Lua scripts, each one atomic step in Redis.
 * @module
 */

import { createHash } from "node:crypto";
import common from "./common.lua" with { type: "text" };
import deleteVerb from "./delete.lua" with { type: "text" };
import insertVerb from "./insert.lua" with { type: "text" };
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
export const trimScript: Script = script("trim", trimVerb);
