/** Processes of the pipeline, as a user starts them. */

import type { Config } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { addressesOf } from "writebehind/config/servers.ts";
import { stringify } from "yaml";
import { testFolder } from "./servers.ts";

/** A command of ours that runs. */
export interface RunningCommand extends AsyncDisposable {
  readonly pid: number;
  readonly status: Promise<Deno.CommandStatus>;
  /** what it has printed so far */
  output(): string;
  /** what of it was on standard error */
  errors(): string;
  kill(signal: Deno.Signal): void;
}

/** The addresses of a configuration, as the environment gives them to a command. */
export function environmentOf(config: Config): Record<string, string> {
  const { redisUrl, databaseUrl } = addressesOf(config);
  return { REDIS_URL: redisUrl, DATABASE_URL: databaseUrl, NO_COLOR: "1" };
}

/**
 * Starts a task of deno.json with its own permissions.
 * @param args the task and its arguments
 * @param checkout of which version it is
 */
export function startTask(
  args: string[],
  env: Record<string, string>,
  checkout = CHECKOUT,
): RunningCommand {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["task", "--quiet", ...args],
    cwd: checkout,
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
    // A group of its own, so that a kill reaches the task's process as well as `deno task`.
    detached: true,
  }).spawn();
  let output = "";
  let errors = "";
  const collect = async (stream: ReadableStream<Uint8Array>, take: (text: string) => void) => {
    const decoder = new TextDecoder();
    for await (const bytes of stream) take(decoder.decode(bytes, { stream: true }));
  };
  const read = Promise.all([
    collect(child.stdout, (text) => output += text),
    collect(child.stderr, (text) => {
      output += text;
      errors += text;
    }),
  ]);
  const kill = (signal: Deno.Signal) => {
    try {
      Deno.kill(-child.pid, signal);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  };
  const status = child.status.then(async (status) => {
    await read;
    return status;
  });
  return {
    pid: child.pid,
    status,
    output: () => output,
    errors: () => errors,
    kill,
    [Symbol.asyncDispose]: async () => {
      kill("SIGKILL");
      await status;
    },
  };
}

/** Writes a configuration file with the keys that differ from the defaults. */
export async function configFile(keys: Record<string, unknown>): Promise<string> {
  const path = `${testFolder("config")}.yaml`;
  await Deno.writeTextFile(path, stringify(keys));
  return path;
}
