import { join } from "node:path";

/** The folder of this checkout. */
export const CHECKOUT: string = join(import.meta.dirname ?? "lib/dev/servers", "..", "..", "..");
