/** Jars from Maven's registry, for tests that need a program in Java. */

import { join } from "node:path";

/** Outside of the checkout, so that a fresh one finds them too. */
const CACHE = join(
  Deno.env.get("XDG_CACHE_HOME") || join(Deno.env.get("HOME") ?? "/tmp", ".cache"),
  "writebehind",
  "jars",
);

/**
 * A jar by itself, without what it needs; fetched by `mvn` where it is not in the cache yet.
 * @param coordinates `group:artifact:version`
 * @returns its path
 */
export async function jar(coordinates: string): Promise<string> {
  const [, artifact, version] = coordinates.split(":");
  const name = `${artifact}-${version}.jar`;
  const path = join(CACHE, name);
  if (await Deno.stat(path).then(() => true, () => false)) return path; // else it is fetched
  await Deno.mkdir(CACHE, { recursive: true });
  const draft = await Deno.makeTempDir({ dir: CACHE });
  try {
    await maven(draft, coordinates, "dependency:copy", `-Dartifact=${coordinates}`);
    // Complete, so that nobody takes half of it.
    await Deno.rename(join(draft, FETCHED, name), path);
  } finally {
    await Deno.remove(draft, { recursive: true });
  }
  return path;
}

/**
 * Jars with all that they need; fetched where they are not in the cache yet.
 * @param name the folder's
 * @param coordinates of each, `group:artifact:version`
 * @returns the folder
 */
export async function jarsWithTheirs(name: string, coordinates: string[]): Promise<string> {
  const folder = join(CACHE, name);
  const isThere = () => Deno.stat(folder).then(() => true, () => false); // else it is fetched
  if (await isThere()) return folder;
  await Deno.mkdir(CACHE, { recursive: true });
  const draft = await Deno.makeTempDir({ dir: CACHE });
  try {
    const dependencies = coordinates.map((one) => {
      const [group, artifact, version] = one.split(":");
      return `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId>` +
        `<version>${version}</version></dependency>`;
    });
    await Deno.writeTextFile(
      join(draft, "pom.xml"),
      "<project><modelVersion>4.0.0</modelVersion><groupId>tests</groupId><artifactId>jars</artifactId>" +
        `<version>1</version><dependencies>${dependencies.join("")}</dependencies></project>`,
    );
    await maven(draft, coordinates.join(", "), "dependency:copy-dependencies");
    try {
      await Deno.rename(join(draft, FETCHED), folder);
    } catch (error) {
      // Another test file was faster.
      if (!await isThere()) throw error;
    }
  } finally {
    await Deno.remove(draft, { recursive: true });
  }
  return folder;
}

/** The folder that Maven fetches to. */
const FETCHED = "fetched";

async function maven(cwd: string, what: string, ...args: string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command("mvn", {
    args: ["-q", "-B", ...args, `-DoutputDirectory=${join(cwd, FETCHED)}`],
    cwd,
    stdin: "null",
  }).output();
  if (success) return;
  const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("").trim();
  throw new Error(`mvn does not fetch ${what}: ${said}`);
}
