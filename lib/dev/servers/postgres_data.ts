/**
 * A PostgreSQL data folder that its server may use: made by initdb once a checkout, copied ever after, and
 * owned by an account that PostgreSQL accepts.
 */

import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { servicesFolder } from "../../config/checkout.ts";
import { findPostgres, isThere } from "./binaries.ts";
import { ownServicesFolder, type Passwords, privateFolder } from "./passwords.ts";
import {
  BELONGINGS_SQL,
  DATABASE,
  DATABASE_SQL,
  markFile,
  markOf,
  OWNER,
  rolesSql,
} from "./postgres_roles.ts";
import type { Account } from "./processes.ts";

/** A data folder and the programs that serve it. */
export interface PostgresData {
  /** The server's own folder, which may be another than the one asked for (see `ownedFolder`). */
  readonly dir: string;
  readonly data: string;
  /** The account that owns it; absent when it is the caller's. */
  readonly account?: Account | undefined;
  /** The path of the server's program. */
  readonly program: string;
}

/** Makes the data folder below `dir` where it does not exist yet, and sees that its roles have these passwords. */
export async function prepareData(dir: string, passwords: Passwords): Promise<PostgresData> {
  const account = await unprivilegedAccount();
  const { home, version } = await findPostgres();
  const bin = join(await reachableHome(home, account), "bin");
  const own = await ownedFolder(dir, account);
  const data = join(own, "data");
  await madeOnce(data, async (draft) => {
    await ownServicesFolder();
    const folder = await ownedFolder(join(servicesFolder(), "templates"), account);
    const template = join(folder, `postgres-${version}-${markOf(passwords).slice(0, 8)}`);
    await madeOnce(template, (draft) => initialise(draft, bin, passwords, account));
    await run("cp", ["-pPR", template, draft], account);
  });
  await takeOver(data, bin, passwords, account);
  return { dir: own, data, account, program: join(bin, "postgres") };
}

/** Brings the roles of a data folder from an earlier version, or with other passwords, up to date. */
async function takeOver(
  data: string,
  bin: string,
  passwords: Passwords,
  account: Account | undefined,
): Promise<void> {
  const mark = markOf(passwords);
  const found = await Deno.readTextFile(markFile(data)).catch(() => ""); // An earlier version left none.
  if (found === mark) return;
  await runSql(data, bin, "postgres", rolesSql(passwords), account);
  await runSql(data, bin, DATABASE, BELONGINGS_SQL, account);
  await Deno.writeTextFile(markFile(data), mark);
}

/** Runs statements, a blank line after each, on a data folder whose server does not run; the first that fails ends it. */
async function runSql(
  data: string,
  bin: string,
  database: string,
  sql: string,
  account: Account | undefined,
): Promise<void> {
  // A statement that fails would be logged with the password in it.
  const settings = ["-c", "exit_on_error=on", "-c", "log_min_error_statement=panic"];
  const args = ["--single", "-j", "-F", ...settings, "-D", data, database];
  await run(join(bin, "postgres"), args, account, sql);
}

/**
 * Makes a folder if it does not exist. It gets its name when it is complete, so that an interrupted one is never
 * taken for it. Whoever comes second finds the work done, and drops their own.
 */
async function madeOnce(path: string, make: (draft: string) => Promise<void>): Promise<void> {
  if (await isThere(path)) return;
  const draft = `${path}.${crypto.randomUUID()}`;
  try {
    await make(draft);
    await Deno.rename(draft, path);
  } catch (error) {
    if (await isThere(draft)) await Deno.remove(draft, { recursive: true });
    if (!await isThere(path)) throw error;
  }
}

/** Makes a data folder with the database in it; to be copied, never started. */
async function initialise(
  data: string,
  bin: string,
  passwords: Passwords,
  account: Account | undefined,
): Promise<void> {
  const passwordFile = `${data}.password`;
  try {
    await Deno.writeTextFile(passwordFile, passwords.owner, { mode: 0o600 });
    if (account) await Deno.chown(passwordFile, account.uid, account.gid);
    await run(join(bin, "initdb"), [
      ...["-D", data, "-U", OWNER, "--pwfile", passwordFile],
      ...["--auth", "scram-sha-256", "--encoding", "UTF8"],
      ...["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"],
      "--no-sync", // Of the template only: the servers keep PostgreSQL's default.
      "--no-instructions",
    ], account);
  } finally {
    await Deno.remove(passwordFile);
  }
  await runSql(data, bin, "postgres", rolesSql(passwords) + DATABASE_SQL, account);
  await Deno.writeTextFile(markFile(data), markOf(passwords));
}

/** The account `nobody` for root, since PostgreSQL refuses to run as root; otherwise none. */
async function unprivilegedAccount(): Promise<Account | undefined> {
  if (Deno.uid() !== 0) return undefined;
  const accounts = (await Deno.readTextFile("/etc/passwd")).split("\n").map((l) => l.split(":"));
  const nobody = accounts.find(([name]) => name === "nobody");
  if (!nobody) {
    throw new Error(
      "PostgreSQL refuses to run as root, and this system has no account `nobody` to run it under. " +
        "Run this command as another user, or set DATABASE_URL to a server of your own",
    );
  }
  return { uid: Number(nobody[2]), gid: Number(nobody[3]) };
}

/**
 * Makes `dir` and gives it to the account. If the account cannot get there, because the checkout lies in a home that
 * only its owner may enter, a folder in the temp directory is used, the same each time.
 */
async function ownedFolder(dir: string, account: Account | undefined): Promise<string> {
  const path = await privateFolder(dir);
  if (!account) return path;
  await Deno.chown(path, account.uid, account.gid);
  if (await mayEnter(path, account)) return path;
  const substitute = await privateFolder(await ownTempFolder(path, account));
  if (await mayEnter(substitute, account)) return substitute;
  throw new Error(
    `PostgreSQL runs as nobody, who may enter neither ${path} nor ${
      dirname(substitute)
    }: run this ` +
      "command as another user than root, or set TMPDIR to a folder that everybody may enter",
  );
}

/** Copies the programs to the temp directory where the account cannot reach them. */
async function reachableHome(home: string, account: Account | undefined): Promise<string> {
  if (!account || await mayEnter(join(home, "bin"), account)) return home;
  const copy = join(await ownTempFolder(home, { uid: 0, gid: 0 }), "native");
  await madeOnce(copy, (draft) => run("cp", ["-pPR", home, draft], undefined));
  return copy;
}

/** Returns a folder in the temp directory that stands for `path` and belongs to the account alone. */
async function ownTempFolder(path: string, { uid, gid }: Account): Promise<string> {
  const name = createHash("sha256").update(path).digest("hex").slice(0, 16);
  const folder = join(await Deno.realPath(tmpdir()), `writebehind-${uid}-${name}`);
  try {
    await Deno.mkdir(folder, { mode: 0o755 });
    await Deno.chown(folder, uid, gid);
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  }
  // Anyone may make folders there, and one that another account has made must not be trusted.
  const found = await Deno.lstat(folder);
  if (!found.isDirectory || found.uid !== uid || ((found.mode ?? 0) & 0o022) !== 0) {
    throw new Error(`${folder} belongs to another account; remove it and try again`);
  }
  return folder;
}

async function mayEnter(folder: string, account: Account): Promise<boolean> {
  const { success } = await new Deno.Command("sh", {
    args: ["-c", 'cd "$0"', folder],
    cwd: "/",
    ...account,
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).output();
  return success;
}

/** Runs a program to its end, under the account when one is given. */
async function run(
  command: string,
  args: readonly string[],
  account: Account | undefined,
  input = "",
): Promise<void> {
  const child = new Deno.Command(command, {
    args: [...args],
    cwd: "/",
    ...account,
    env: { LC_ALL: "C" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  // A program that ends without reading its input says why itself.
  await new Blob([input]).stream().pipeTo(child.stdin).catch(() => {});
  const { success, stdout, stderr } = await child.output();
  if (success) return;
  const text = new TextDecoder().decode(stderr).trim() || new TextDecoder().decode(stdout).trim();
  throw new Error(`${basename(command)} failed: ${text}`);
}
