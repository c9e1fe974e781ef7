/** Where a command's log goes: standard error, as text for people or as JSON, a record a line. */

import {
  configure,
  getJsonLinesFormatter,
  getTextFormatter,
  type LogLevel,
} from "@logtape/logtape";
import { type Command, Option } from "commander";
import type { Config } from "../config/load.ts";

const LEVELS = ["debug", "info", "warning", "error"] as const satisfies LogLevel[];
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
      new Option("--log-level <level>", "what is told on standard error, from this level up")
        .choices(LEVELS).default(level),
    )
    .addOption(
      new Option("--log-format <format>", "how it is told: lines for people, or JSON")
        .choices(FORMATS).default("text"),
    );
}

/** Sends the library's log to standard error. No password of the configuration ever stands in it. */
export async function configureLog({ logLevel, logFormat }: LogOptions, config: Config) {
  const secrets = [config.redis.password, config.postgresql.password]
    .filter((secret) => secret !== null && secret !== "");
  const format = logFormat === "json"
    ? getJsonLinesFormatter({ properties: "flatten" })
    : getTextFormatter({ timestamp: "time", category: "." });
  await configure({
    reset: true,
    sinks: {
      stderr: (record) => {
        let line = format(record).trimEnd();
        for (const secret of secrets) line = line.replaceAll(secret!, "***");
        console.error(line);
      },
    },
    loggers: [
      { category: "writebehind", lowestLevel: logLevel, sinks: ["stderr"] },
      { category: ["logtape", "meta"], lowestLevel: "error", sinks: ["stderr"] },
    ],
  });
}
