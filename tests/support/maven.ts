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
    const { success, stdout, stderr } = await new Deno.Command("mvn", {
      args: [
        "-q",
        "-B",
        "dependency:copy",
        `-Dartifact=${coordinates}`,
        `-DoutputDirectory=${draft}`,
      ],
      cwd: draft,
      stdin: "null",
    }).output();
    if (!success) {
      const said = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("").trim();
      throw new Error(`mvn does not fetch ${coordinates}: ${said}`);
    }
    // Complete, so that nobody takes half of it.
    await Deno.rename(join(draft, name), path);
  } finally {
    await Deno.remove(draft, { recursive: true });
  }
  return path;
}
