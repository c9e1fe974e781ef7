/** A Redis of the test file that imports this: started when it is loaded, stopped after its tests. */

import { Redis } from "ioredis";
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
  // Emptied first: what another test has left may have another number of partitions.
  const { host, port } = config.redis;
  const emptying = new Redis({ host, port });
  await emptying.flushall();
  emptying.disconnect();
  const redis = await connectRedis(config);
  return { redis, config, [Symbol.asyncDispose]: () => redis.close() };
}
