/**
 * The files beside the database's own, and locks on them. A lock of the operating system is gone with the process
 * that holds it, however it ends; the files stay, since removing one would let two hold it.
 * @module
 */

import { dirname, resolve } from "node:path";
import { explained } from "./errors.ts";

/** The path of a file that is there, without links: locks lie beside it, so two names of one file have the same. */
export function truePath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch {
    return resolve(path); // it is yet to be made, or cannot be read: opening it tells
  }
}

/** Locked by whoever is next to write. */
export function turnFile(path: string): string {
  return `${path}.turn.lock`;
}

/** Locked by the owner of a stream. */
export function leaseFile(path: string, stream: string): string {
  return `${path}.${encodeURIComponent(stream)}.lock`;
}

/** Takes a lock, until the file is closed; `null` where it is held, in this process or another. */
export async function takeLock(lock: string): Promise<Deno.FsFile | null> {
  let file: Deno.FsFile;
  try {
    await Deno.mkdir(dirname(lock), { recursive: true });
    file = await Deno.open(lock, { create: true, write: true });
  } catch (error) {
    throw explained(error, lock);
  }
  // A lock belongs to the opened file, so each taker opens its own.
  if (await file.tryLock(true)) return file;
  file.close();
  return null;
}

/** Whether somebody holds a lock. Who tries to take it at this very moment has to try again. */
export async function isLocked(lock: string): Promise<boolean> {
  try {
    using file = await Deno.open(lock, { read: true });
    return !await file.tryLock(false);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
