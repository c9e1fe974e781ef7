/** Grammars of servers that cannot be run here: those of Apache ShardingSphere. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { jar } from "./maven.ts";
import { isInstalled } from "./programs.ts";

/** Whether Java is installed, with what fetches the parsers; also for other programs in Java. */
export const hasJava: boolean = (["javac", "mvn"] as const).every(isInstalled);

/** The parser's jars, one after the other: Maven's own cache is for one process at a time. */
async function grammarOf(server: "MySQL" | "Oracle"): Promise<string[]> {
  return [
    await jar(`org.apache.shardingsphere:shardingsphere-parser-sql-${server.toLowerCase()}:5.5.2`),
    await jar("org.antlr:antlr4-runtime:4.10.1"),
  ];
}

/** The grammar's word on each text: `ok`, or what is wrong; and how many different statements they are. */
export async function verdicts(
  server: "MySQL" | "Oracle",
  texts: readonly string[],
): Promise<[said: string[], statements: number]> {
  const program = new Deno.Command("java", {
    args: [
      "-XX:TieredStopAtLevel=1", // for a short run
      ...["-cp", (await grammarOf(server)).join(":"), join(import.meta.dirname!, "Grammar.java")],
      server,
    ],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const [{ success, stdout }] = await Promise.all([
    program.output(),
    new Blob([texts.join("\0")]).stream().pipeTo(program.stdin),
  ]);
  assert(success, "the parser has failed");
  const lines = new TextDecoder().decode(stdout).trimEnd().split("\n");
  assert.equal(lines.length, texts.length + 1);
  return [lines.slice(0, -1), Number(lines.at(-1))];
}
