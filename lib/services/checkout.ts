import { dirname } from "node:path";

/** The folder of this checkout: two above this file's. */
export const CHECKOUT: string = dirname(dirname(import.meta.dirname ?? "lib/services"));
