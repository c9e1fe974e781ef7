/** Where a command's log goes: standard error, as text for people or as JSON, a record a line. */

import type { LogLevel, LogRecord } from "@logtape/logtape";
import { type Command, Option } from "commander";
import type { Config } from "../config/load.ts";

const LEVELS = ["trace", "debug", "info", "warning", "error"] as const satisfies LogLevel[];
const FORMATS = ["text", "json"] as const;

/** The options of every long-running command. */
export interface LogOptions {
  logLevel: typeof LEVELS[number];
  logFormat: typeof FORMATS[number];
}

/** Adds `--log-level` and `--log-format` to a command. */
export function logOptions(
  command: Command,
  level: LogOptions["logLevel"] = "info",
): Command {
  return command
    .addOption(
      new Option("--log-level <level>", "what is logged to standard error, from this level up")
        .choices(LEVELS).default(level),
    )
    .addOption(
      new Option("--log-format <format>", "lines for people, or JSON, a record a line")
        .choices(FORMATS).default("text"),
    );
}

/** Says why the command ends: the last line of its log. */
export let logFailure: (text: string) => void = console.error;

/** Sends the library's log to standard error. */
export async function configureLog({ logLevel, logFormat }: LogOptions): Promise<void> {
  const { configure, getJsonLinesFormatter, getLogger, getTextFormatter } = await import(
    "@logtape/logtape"
  );
  const json = logFormat === "json";
  const format = json
    ? getJsonLinesFormatter({ properties: "flatten" })
    : getTextFormatter({ timestamp: "time", value: "bare" });
  await configure({
    reset: true,
    sinks: { stderr: (record) => console.error(format(withoutSecrets(record)).trimEnd()) },
    loggers: [
      { category: "writebehind", lowestLevel: logLevel, sinks: ["stderr"] },
      { category: ["logtape", "meta"], lowestLevel: "error", sinks: ["stderr"] },
    ],
  });
  if (!json) return;
  const logger = getLogger(["writebehind", "cli"]);
  logFailure = (error) => logger.fatal("{error}", { event: "commandFailed", error });
}

let secrets: RegExp[] = [];

/** Keeps the passwords of the configuration out of the log, whatever message they come in. */
export function hideSecrets({ redis, postgresql, targets }: Config): void {
  const ofTargets = targets.map((target) => "password" in target ? target.password : null);
  const all = [redis.password, redis.sentinel_password, postgresql.password, ...ofTargets];
  secrets = all.filter((secret) => secret).map((secret) =>
    // A word that is a password, not one that has it in it.
    new RegExp(`(?<![\\w.-])${secret!.replace(/[^\w]/g, "\\$&")}(?![\\w.-])`, "g")
  );
}

/** Texts that are not of this library's making may hold anything. */
const FOREIGN = ["error", "reason", "stack"];

function withoutSecrets(record: LogRecord): LogRecord {
  const properties = { ...record.properties };
  const hidden = new Map<unknown, string>();
  for (const name of FOREIGN) {
    const text = properties[name];
    if (typeof text !== "string") continue;
    const shown = secrets.reduce((shown, secret) => shown.replace(secret, "***"), text);
    hidden.set(text, properties[name] = shown);
  }
  const message = record.message.map((part) => hidden.get(part) ?? part);
  return { ...record, message, properties };
}
