/** The embedded servers, one by one. */

export { NoEmbeddedServerError } from "./binaries.ts";
export { type RedisOptions, type RedisServer, startRedis } from "./redis.ts";
export {
  EMBEDDED_DATABASE,
  type PostgresOptions,
  type PostgresServer,
  startPostgres,
  type StopMode,
} from "./postgres.ts";
