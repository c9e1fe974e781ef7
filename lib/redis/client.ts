/**
 * ioredis's client under our own names, since it is in public signatures and has its own documentation:
 * https://redis.github.io/ioredis/
 * @module
 */

import { connect, type TLSSocket } from "node:tls";
import { AbstractConnector, Redis as Client, type RedisOptions as Options } from "ioredis";
import type { Trust } from "../config/tls.ts";

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

/** Whether Redis itself has answered with an error, by ioredis or by our own reader; a connection that is lost tells others. */
export function isReplyError(error: unknown): error is Error {
  return error instanceof Error && error.name === "ReplyError";
}

/** Begins a connection by TLS; nothing is sent to a server that is not trusted. */
export function connectGuarded(place: { host: string; port: number }, trust: Trust): TLSSocket {
  const socket = connect({ ...place, ...trust.options });
  trust.guard(socket);
  return socket;
}

/** The options by which a client uses TLS, and sends nothing to a server that is not trusted. */
export function tlsOptions(trust: Trust): Pick<Options, "tls" | "Connector"> {
  class GuardedConnector extends AbstractConnector {
    #options: Options;

    constructor(options: unknown) {
      super((options as { disconnectTimeout: number }).disconnectTimeout);
      this.#options = options as Options;
    }

    override connect(): ReturnType<AbstractConnector["connect"]> {
      const { host = "localhost", port = 6379 } = this.#options;
      const socket = connectGuarded({ host, port }, trust);
      socket.once("error", (error) => this.firstError = error);
      return Promise.resolve(this.stream = socket);
    }
  }
  return { tls: trust.options, Connector: GuardedConnector };
}
