/** One part of the pipeline and a document of 20 MB; prints by how many MB the process's memory grew at most. */

import {
  configWith,
  connectRedis,
  insertDocument,
  openTarget,
  readByIds,
  RedisWriteBehind,
  verify,
} from "writebehind";
import { configured } from "writebehind/cli/common.ts";

const config = configWith(await configured(undefined, () => {}), {
  documents: { max_bytes: 32 * 2 ** 20 },
  redis: { command_timeout_ms: 60_000 },
});
const redis = await connectRedis(config);
const target = await openTarget(config);

/** 200,000 keys of about 100 bytes. */
const text = () =>
  `{${Array.from({ length: 200_000 }, (_, n) => `"k${n}":"${"x".repeat(90)}"`).join(",")}}`;

const PARTS: Record<string, () => Promise<() => Promise<unknown>>> = {
  write: () => {
    const document = text();
    return Promise.resolve(() => insertDocument(redis, config, "session", document, "large"));
  },
  sink: () => Promise.resolve(() => new RedisWriteBehind(redis, target, config, "session").drain()),
  verify: () => Promise.resolve(() => verify(redis, target, config, "session")),
  read: () => Promise.resolve(() => readByIds(redis, config, "session", ["large"])),
};

function peak(): number {
  const status = Deno.readTextFileSync("/proc/self/status");
  return Number(/VmHWM:\s+(\d+)/.exec(status)![1]) / 1024;
}

const work = await PARTS[Deno.args[0]!]!();
const before = peak();
await work();
console.log((peak() - before).toFixed(0));
Deno.exit(0);
