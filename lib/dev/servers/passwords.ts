/** The passwords of a checkout's embedded servers: generated once, in a file that only its owner may read. */

import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { servicesFolder } from "../../config/checkout.ts";
import { ConfigError } from "../../core/errors.ts";
import { isThere } from "./binaries.ts";
import { withLock } from "./lock.ts";

/** Letters and digits, so that they need no quotes anywhere. */
export interface Passwords {
  /** Redis's default user. */
  readonly redis: string;
  /** The application's role in PostgreSQL, and its user in MariaDB. */
  readonly application: string;
  /** PostgreSQL's owner, a superuser. */
  readonly owner: string;
}

/** The file in the servers' folder. */
export const PASSWORDS_FILE = "passwords.json";

const NAMES = ["redis", "application", "owner"] as const;

/** Writes a file that nobody else may read. It has its name when it is complete. */
export async function writePrivateFile(path: string, text: string): Promise<void> {
  const draft = `${path}.${crypto.randomUUID()}`;
  await Deno.writeTextFile(draft, text, { mode: 0o600 });
  await Deno.rename(draft, path);
}

/**
 * Makes a folder that nobody else may look into; one that is there is closed to others.
 * @param mode where others have to pass through. @default {0o700}
 */
export async function privateFolder(path: string, mode = 0o700): Promise<string> {
  await Deno.mkdir(path, { recursive: true, mode });
  await Deno.chmod(path, mode);
  return await Deno.realPath(path);
}

/** Makes the folder of a checkout's servers. PostgreSQL has to pass through where root starts it under another account. */
export function ownServicesFolder(root?: string): Promise<string> {
  return privateFolder(servicesFolder(root), Deno.uid() === 0 ? 0o711 : 0o700);
}

/**
 * Reads the passwords; generates them where there are none yet.
 * @param root the folder of the checkout. @default {this one}
 * @throws {ConfigError} where the file holds something else
 */
export async function readPasswords(root?: string): Promise<Passwords> {
  const path = join(await ownServicesFolder(root), PASSWORDS_FILE);
  if (!await isThere(path)) {
    await withLock(`${path}.lock`, () => {}, async () => {
      if (await isThere(path)) return; // another process was first
      const fresh = NAMES.map((name) => [name, randomBytes(16).toString("hex")]);
      await writePrivateFile(path, JSON.stringify(Object.fromEntries(fresh), null, 2) + "\n");
    });
  }
  await Deno.chmod(path, 0o600);
  return parsed(path, await Deno.readTextFile(path));
}

function parsed(path: string, text: string): Passwords {
  const refuse = () =>
    new ConfigError(
      `${path} does not hold the passwords of the embedded servers: stop them (deno task services stop) and ` +
        "remove it; the next start makes new ones",
    );
  let given: Partial<Record<string, unknown>>;
  try {
    given = Object(JSON.parse(text));
  } catch {
    throw refuse(); // without the cause, which would show the text
  }
  const [redis, application, owner] = NAMES.map((name) => {
    const password = given[name];
    if (typeof password === "string" && /^[0-9A-Za-z]{8,}$/.test(password)) return password;
    throw refuse();
  });
  return { redis: redis!, application: application!, owner: owner! };
}
