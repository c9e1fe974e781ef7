/**
 * The record of the embedded servers that a checkout runs: a small file that every command reads.
 * @module
 */

import { join } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { servicesFolder } from "./checkout.ts";

/** The embedded servers, in the order in which they are stopped. */
export const SERVICE_NAMES = ["replica", "redis", "postgres", "mysql"] as const;
/** One of the embedded servers. */
export type ServiceName = typeof SERVICE_NAMES[number];

/** A process. Its start time distinguishes it from a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** When the process started, in the system's own notation; only compared, never parsed. */
  readonly startTime: string;
}

/** A server in the record. */
export interface RecordedServer extends ProcessIdentity {
  readonly port: number;
  /** With its password. */
  readonly url: string;
  /** Of PostgreSQL: the same for its owner, a superuser. Absent where an earlier version started it. */
  readonly ownerUrl?: string;
}

/** The servers that were started here, and the processes that use them. */
export interface ServersRecord {
  readonly servers: Partial<Record<ServiceName, RecordedServer>>;
  /** Processes that started the servers or found them running; the last one to leave stops them. */
  readonly holders: readonly ProcessIdentity[];
}

/**
 * Reads the record. Its processes may have ended since.
 *
 * @throws {ConfigError} where the file holds something else
 */
export async function readRecord(root?: string): Promise<ServersRecord> {
  const path = join(servicesFolder(root), "state.json");
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { servers: {}, holders: [] };
    throw error;
  }
  try {
    const { servers, holders } = JSON.parse(text) as ServersRecord;
    return { servers: { ...servers }, holders: [...holders] };
  } catch (cause) {
    throw new ConfigError(`${path} is not the record of running servers: remove it`, { cause });
  }
}

/** Writes the record, or removes it when no server is left in it. */
export function writeRecord(record: ServersRecord, root?: string): void {
  const path = join(servicesFolder(root), "state.json");
  // Renamed when complete, so that a reader never sees half of it.
  const draft = `${path}.${crypto.randomUUID()}`;
  Deno.writeTextFileSync(draft, JSON.stringify(record, null, 2), { mode: 0o600 });
  Deno.renameSync(draft, path);
  if (Object.keys(record.servers).length === 0) Deno.removeSync(path);
}
