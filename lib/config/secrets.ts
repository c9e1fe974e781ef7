/**
 * Keys that hold secrets.
 * @module
 */

import { z } from "zod";

/** Whether a key holds a secret. */
export const isSecret = (key: string): boolean => key.endsWith("password");

export const textOrNull = z.string({ error: "expected text or null" }).nullable();

/** A secret: as it is, or `${NAME}` for what an environment variable holds. */
export const secret = (what: string) =>
  textOrNull.transform((value, context) => {
    const [, name] = /^\$\{([A-Za-z_]\w*)\}$/.exec(value ?? "") ?? [];
    if (name === undefined) return value;
    const given = Deno.env.get(name);
    if (given !== undefined) return given;
    context.addIssue({
      code: "custom",
      message: `the environment variable ${name} is not set; set it, or write the ${what} here`,
    });
    return z.NEVER;
  });
