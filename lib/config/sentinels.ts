/**
 * The keys of the section `redis` that name sentinels, or the nodes of a cluster, and the rules between them.
 * @module
 */

import { z } from "zod";
import { isHost } from "./address_parts.ts";
import type { Config, DeepPartial } from "./config.ts";
import { flag, optionalText, password, text, whole } from "./values.ts";

const HOST = "expected a name or an address, without a port";
const NAME = "expected the name of a primary, without spaces, or null";

const place = (port: number) =>
  z.strictObject({
    host: z.string({ error: HOST })
      .refine((host) => isHost(host) && !host.startsWith("/"), { error: HOST }),
    port: whole(port, 1, 65535),
  }, { error: "expected a host and a port" });

export const sentinelKeys = {
  sentinels: z.array(place(26379), { error: "expected a list of sentinels, or null" })
    .min(1, { error: "expected at least one sentinel, or null" }).nullable().default(null),
  sentinel_name: text(NAME, /^[^\s\p{Cc}]+$/u).nullable().default(null),
  sentinel_username: optionalText,
  sentinel_password: password.default(null),
  sentinel_tls: flag(false),
};

export const clusterKeys = {
  cluster: z.array(place(6379), { error: "expected a list of nodes, or null" })
    .min(1, { error: "expected at least one node, or null" }).nullable().default(null),
};

/** What is not possible in a cluster. */
export function* clusterProblems(
  { cluster, sentinels, db }: DeepPartial<Config["redis"]>,
): Generator<{ path: string[]; message: string }> {
  if (!Array.isArray(cluster)) return;
  if (Array.isArray(sentinels)) {
    const message = "expected null, since there is a cluster, which fails over by itself";
    yield { path: ["redis", "sentinels"], message };
  }
  if (Number.isInteger(db) && db !== 0) {
    yield { path: ["redis", "db"], message: "a cluster has database 0 only; set db to 0" };
  }
}

/** A name without sentinels, or sentinels without a name. */
export function* sentinelProblems(
  { sentinels, sentinel_name }: DeepPartial<Config["redis"]>,
): Generator<{ path: string[]; message: string }> {
  if (Array.isArray(sentinels) && sentinel_name === null) {
    const message = "expected what the sentinels call the primary, such as mymaster";
    yield { path: ["redis", "sentinel_name"], message };
  } else if (sentinels === null && typeof sentinel_name === "string") {
    const message = "expected a list of sentinels, since there is a sentinel_name";
    yield { path: ["redis", "sentinels"], message };
  }
}
