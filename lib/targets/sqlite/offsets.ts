/**
 * Where the partitions stand in a file. Reads only, also where there is no file yet.
 * @module
 */

import type { PartitionKeys } from "../../redis/keys.ts";
import type { Offsets, Standing } from "../target.ts";
import type { Connections } from "./connection.ts";
import { isLocked, leaseFile } from "./files.ts";

/** Offsets in the table `writebehind_offset`, owners by their locks. */
export class SqliteOffsets implements Offsets {
  #connections: Connections;

  constructor(connections: Connections) {
    this.#connections = connections;
  }

  offset({ stream }: Pick<PartitionKeys, "stream">): Promise<string> {
    return this.#connections.reader.call("offset", [stream]);
  }

  async standing({ stream }: PartitionKeys): Promise<Standing> {
    const { path, reader } = this.#connections;
    const [standing, live] = await Promise.all([
      reader.call("standing", [stream]),
      isLocked(leaseFile(path, stream)),
    ]);
    return { ...standing, live, leaseSeconds: null, waitsFor: null };
  }
}
