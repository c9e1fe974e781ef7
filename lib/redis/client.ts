/**
 * ioredis's client under our own names, since it is in public signatures and has its own documentation:
 * https://redis.github.io/ioredis/
 * @module
 */

import { Redis as Client, type RedisOptions as Options } from "ioredis";

/**
 * ioredis's client.
 * @internal
 */
export const Redis: typeof Client = Client;
/**
 * ioredis's client.
 * @internal
 */
export type Redis = Client;
/**
 * ioredis's options.
 * @internal
 */
export type RedisOptions = Options;
