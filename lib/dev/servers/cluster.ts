/**
 * A PostgreSQL data folder that its server may use: made by initdb once a checkout, copied ever after, and
 * owned by an account that PostgreSQL accepts.
 */

import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { findPostgres, isThere, type PostgresBinaries } from "./binaries.ts";
import { CHECKOUT } from "./checkout.ts";
import type { Account } from "./processes.ts";

/** A data folder and the programs that serve it. */
export interface Cluster {
  /** The server's own folder, which may be another than the one asked for (see `ownedFolder`). */
  readonly dir: string;
  readonly data: string;
  readonly log: string;
  /** The account that owns it; absent when it is the caller's. */
  readonly account?: Account;
  /** Returns the path of one of PostgreSQL's programs. */
  program(name: "initdb" | "postgres"): string;
}

/** The superuser and the database of a new cluster. */
export interface ClusterOwner {
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

/** Makes the data folder below `dir` where it does not exist yet. */
export async function prepareCluster(dir: string, owner: ClusterOwner): Promise<Cluster> {
  const account = await unprivilegedAccount();
  const binaries = await reachableBinaries(await findPostgres(), account);
  const own = await ownedFolder(dir, account);
  const data = join(own, "data");
  const program = (name: string) => join(binaries.home, "bin", name);
  if (!await isThere(data)) {
    const template = await templateCluster(binaries, owner, account);
    // Renamed when complete, so that a copy that was broken off is never taken for a data folder.
    const copy = join(own, `data.${crypto.randomUUID()}`);
    await run("cp", ["-pPR", template, copy], account);
    await Deno.rename(copy, data);
  }
  return { dir: own, data, log: join(own, "postgres.log"), account, program };
}

/** PostgreSQL refuses to run as root: there, the account `nobody`; elsewhere none. */
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
 * Makes `dir` and gives it to the account. Where the account cannot get there, because the checkout lies in
 * a home that only its owner may enter, a folder in the temp directory serves, the same each time.
 */
async function ownedFolder(dir: string, account: Account | undefined): Promise<string> {
  await Deno.mkdir(dir, { recursive: true });
  const path = await Deno.realPath(dir);
  if (!account) return path;
  await Deno.chown(path, account.uid, account.gid);
  if (await mayEnter(path, account)) return path;
  const substitute = await ownTempFolder(path, account);
  if (await mayEnter(substitute, account)) return substitute;
  throw new Error(
    `PostgreSQL runs as nobody, who may enter neither ${path} nor ${
      dirname(substitute)
    }: run this ` +
      "command as another user than root, or set TMPDIR to a folder that everybody may enter",
  );
}

/** Copies the programs to the temp directory where the account cannot reach them. */
async function reachableBinaries(
  binaries: PostgresBinaries,
  account: Account | undefined,
): Promise<PostgresBinaries> {
  if (!account || await mayEnter(join(binaries.home, "bin"), account)) return binaries;
  const folder = await ownTempFolder(binaries.home, { uid: 0, gid: 0 });
  const home = join(folder, "native");
  if (!await isThere(home)) {
    const copy = `${home}.${crypto.randomUUID()}`;
    await run("cp", ["-pPR", binaries.home, copy], undefined);
    await renameUnlessThere(copy, home);
  }
  return { ...binaries, home };
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
  // Anyone may make folders there: one that another account made beforehand must not be trusted.
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

/** Returns a data folder as initdb leaves it, with the database made; to be copied, never started. */
async function templateCluster(
  binaries: PostgresBinaries,
  owner: ClusterOwner,
  account: Account | undefined,
): Promise<string> {
  const folder = await ownedFolder(join(CHECKOUT, ".services", "templates"), account);
  const template = join(folder, `postgres-${binaries.version}`);
  if (await isThere(template)) return template;
  const data = join(folder, `${basename(template)}.${crypto.randomUUID()}`);
  const passwordFile = `${data}.password`;
  try {
    await Deno.writeTextFile(passwordFile, owner.password, { mode: 0o600 });
    if (account) await Deno.chown(passwordFile, account.uid, account.gid);
    await run(join(binaries.home, "bin", "initdb"), [
      ...["-D", data, "-U", owner.user, "--pwfile", passwordFile],
      ...["--auth", "scram-sha-256", "--encoding", "UTF8"],
      ...["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"],
      "--no-sync", // Of the template only: the servers keep PostgreSQL's default.
      "--no-instructions",
    ], account);
    await run(
      join(binaries.home, "bin", "postgres"),
      ["--single", "-F", "-D", data, "postgres"],
      account,
      `CREATE DATABASE "${owner.database}" OWNER "${owner.user}"\n`,
    );
    await renameUnlessThere(data, template);
  } finally {
    await Deno.remove(passwordFile).catch(() => {});
    await Deno.remove(data, { recursive: true }).catch(() => {});
  }
  return template;
}

/** Whoever comes second finds the work done, and drops theirs. */
async function renameUnlessThere(from: string, to: string): Promise<void> {
  try {
    await Deno.rename(from, to);
  } catch (error) {
    if (!await isThere(to)) throw error;
    await Deno.remove(from, { recursive: true });
  }
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
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input)).catch(() => {});
  await writer.close().catch(() => {});
  const { success, stdout, stderr } = await child.output();
  if (success) return;
  const text = new TextDecoder().decode(stderr).trim() || new TextDecoder().decode(stdout).trim();
  throw new Error(`${basename(command)} failed: ${text}`);
}
