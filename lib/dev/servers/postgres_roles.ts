/**
 * The roles of an embedded PostgreSQL: its owner, and the application's, which is no superuser: a superuser may run
 * programs as the server's account.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Passwords } from "./passwords.ts";
import belongings from "./belongings.sql" with { type: "text" };
import roles from "./roles.sql" with { type: "text" };

/** The superuser. */
export const OWNER = "postgres";
/** The application's role and the database, which is its own: the config file's defaults. */
export const APPLICATION = "redis";
export const DATABASE = "redisdemo";

/** What gives a data folder its roles, with these passwords; run again, it sets the passwords. */
export function rolesSql({ application, owner }: Passwords): string {
  return roles.replaceAll("{application}", APPLICATION).replaceAll("{owner}", OWNER)
    .replaceAll("{applicationPassword}", application).replaceAll("{ownerPassword}", owner);
}

/** What makes the database. */
export const DATABASE_SQL = `CREATE DATABASE ${DATABASE} OWNER ${APPLICATION};\n\n`;

/** What gives the application's role all that the owner has made in the database. */
export const BELONGINGS_SQL: string = belongings.replaceAll("{application}", APPLICATION);

/** Says, without showing them, which passwords a data folder's roles have. */
export const markOf = (passwords: Passwords): string =>
  createHash("sha256").update(rolesSql(passwords)).digest("hex");

/** Where a data folder keeps its mark. */
export const markFile = (data: string): string => join(data, "writebehind_roles");
