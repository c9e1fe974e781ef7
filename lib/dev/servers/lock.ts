import { dirname } from "node:path";

/** Takes one line about what is being done. */
export type Progress = (line: string) => void;

/**
 * Runs `task` while no other process runs one under the same lock file. The system drops the lock with the
 * process that holds it, however that ends.
 */
export async function withLock<T>(
  path: string,
  onProgress: Progress,
  task: () => Promise<T>,
): Promise<T> {
  await Deno.mkdir(dirname(path), { recursive: true });
  using file = await Deno.open(path, { write: true, create: true });
  if (!await file.tryLock(true)) {
    onProgress("waiting for another command of this checkout that does the same");
    await file.lock(true);
  }
  return await task();
}
