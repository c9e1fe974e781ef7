/**
 * What everything that may be done on the stage works with.
 * @module
 */

import type { Config } from "../../config/load.ts";
import { WriteBehindError } from "../../core/errors.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import type { Target } from "../../targets/target.ts";
import type { Happenings } from "./happened.ts";
import type { Notices } from "./notices.ts";
import type { StageServers } from "./servers.ts";

/** The pipeline, and where it is told what is done to it. */
export interface Scene {
  /** null on given servers */
  readonly servers: StageServers | null;
  readonly config: Config;
  readonly entity: string;
  readonly redis: RedisConnection;
  readonly target: Target;
  readonly happened: Happenings;
  readonly notices: Notices;
  /** raised when the stage ends */
  readonly signal: AbortSignal;
  /** sends the page the state that has changed */
  changed(): void;
}

/**
 * The scene's servers, for what is done to the stage's own alone.
 * @throws {WriteBehindError} on given servers
 */
export function ownServers({ servers }: Scene): StageServers {
  if (!servers) throw new WriteBehindError("these servers are not the stage's own");
  return servers;
}
