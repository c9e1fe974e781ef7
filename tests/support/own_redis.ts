/** A Redis of the test file that imports this: started when it is loaded, stopped after its tests. */

import { type Config, configWith, connectRedis, type DeepPartial, parseConfig } from "writebehind";
import { testRedis } from "./servers.ts";

export const server = await testRedis();
Deno.test.afterAll(async () => await server[Symbol.asyncDispose]());

const base = configWith(parseConfig("", "test.yaml"), {
  redis: { host: server.host, port: server.port },
});

/** Empties the Redis and connects to it, by the defaults with these changes, later ones over earlier. */
export async function emptyRedis(...changes: DeepPartial<Config>[]) {
  const config = changes.reduce<Config>(configWith, base);
  const redis = await connectRedis(config);
  await redis.flushall();
  return { redis, config, [Symbol.asyncDispose]: () => redis.close() };
}
