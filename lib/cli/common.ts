/** What the commands share. */

import { InvalidArgumentError } from "commander";
import { type Config, configWith, loadConfig } from "../config/load.ts";
import { describeServers, resolveServers, serverOverrides } from "../config/servers.ts";
import { hideSecrets } from "./log.ts";

/** Loads the configuration with the servers that this command is to use, and says which they are. */
export async function configured(
  path: string | undefined,
  say: (line: string) => void = console.log,
): Promise<Config> {
  const config = await loadConfig(path);
  const servers = await resolveServers(config);
  say(describeServers(servers));
  const resolved = configWith(config, serverOverrides(servers));
  hideSecrets(resolved);
  return resolved;
}

/** Prints lines for people: on standard error with `--json`, which leaves standard output to the JSON. */
export function sayFor({ json }: { json?: boolean }): (line: string) => void {
  return json ? console.error : console.log;
}

/** Reads an option's number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value) || value < 0) {
    throw new InvalidArgumentError("Expected a number that is not negative.");
  }
  return value;
}

/** Reads an option's port. */
export function port(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 65535) {
    throw new InvalidArgumentError("Expected a port, 0 to 65535.");
  }
  return Number(text);
}

export const CONFIG = [
  "--config <file>",
  "the configuration file (default: config/config.yaml)",
] as const;
export const ENTITY = ["--entity <name>", "the entity", "session"] as const;
export const JSON_OUTPUT = ["--json", "print JSON instead of lines for people"] as const;

// Characters that a terminal obeys, or shows out of order.
const UNPRINTABLE = /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const escaped = (character: string) =>
  `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** Any text as one quoted line that no terminal interprets. */
export function quoted(text: string): string {
  return JSON.stringify(text).replace(UNPRINTABLE, escaped);
}

/** A message as one line that no terminal interprets. */
export function oneLine(text: string): string {
  const line = text.split(/[\r\n]+/).map((part) => part.trim()).filter(Boolean).join("; ");
  // deno-lint-ignore no-control-regex
  return line.replace(/[\u0000-\u001f]/g, escaped).replace(UNPRINTABLE, escaped);
}
