import { join } from "node:path";

/** The folder of this checkout. */
export const CHECKOUT: string = join(import.meta.dirname ?? "lib/config", "..", "..");

/** The folder with the record and the data of a checkout's embedded servers. */
export function servicesFolder(root: string = CHECKOUT): string {
  return join(root, ".services");
}
