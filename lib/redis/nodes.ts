/**
 * Where a connection goes: to the address of the configuration, to the primary that sentinels name, or to a given node of
 * a cluster. The one place that decides it.
 * @module
 */

import { connect, Socket } from "node:net";
import { AbstractConnector } from "ioredis";
import type { Config } from "../config/load.ts";
import { redisTrust } from "../config/tls.ts";
import { asError, ConnectionError } from "../core/errors.ts";
import { connectGuarded, type RedisOptions, tlsOptions } from "./client.ts";
import { type Node, primaryOf, SentinelError, SentinelWatch } from "./sentinels.ts";

export type { Node } from "./sentinels.ts";

/** The server that a configuration means now, for what does not stay connected: of a cluster, the first that is named. */
export async function nodeOf(config: Config): Promise<Node> {
  const { sentinels, cluster, host, port } = config.redis;
  return cluster?.[0] ?? (sentinels === null ? { host, port } : await primaryOf(config));
}

/** Options of ioredis that say where to go. */
type NodeOptions = Omit<RedisOptions, "replyMapping">;

/** The way of one connection: by sentinels it may lead to another server each time. */
export class Route {
  /** where it leads, or led last; `null` where no sentinel has told it yet, and for a cluster as a whole */
  node: Node | null;
  #config: Config;
  #watch: ReturnType<typeof SentinelWatch.join> | undefined;

  /** @param node of a cluster */
  constructor(config: Config, node?: Node) {
    this.#config = config;
    const { sentinels, cluster, host, port } = config.redis;
    this.node = node ?? (sentinels === null && cluster === null ? { host, port } : null);
  }

  /** The options by which ioredis goes this way. */
  get options(): NodeOptions {
    const { redis } = this.#config;
    const { tls, sentinels } = redis;
    if (sentinels !== null) return this.#bySentinels();
    if (this.node === null) return {}; // it connects by those of the nodes
    const { host, port } = this.node;
    if (host.startsWith("/")) return { path: host };
    return { host, port, ...(tls ? tlsOptions(redisTrust(redis, host)) : {}) };
  }

  #bySentinels(): NodeOptions {
    const config = this.#config;
    const { tls, sentinel_tls } = config.redis;
    // Files that cannot be used are told at once, not by each connection.
    if (tls || sentinel_tls) redisTrust(config.redis, "");
    return {
      ...(tls ? { tls: {} } : {}), // it then waits for the handshake
      Connector: primaryConnector(config, (node) => this.node = node),
      // The next attempt may lead to another server, so it comes soon.
      retryStrategy: (times) => Math.min(50 * 2 ** Math.min(times, 6), 500),
      // The call was refused, and so would be those that follow, until the sentinels name another server.
      reconnectOnError: ({ message }) => message.startsWith("READONLY"),
    };
  }

  /**
   * Says when the primary is another server than that of the connection, until it is ended. To be called each time that
   * the connection is there: the sentinel that had named the server may not have heard yet of a failover.
   */
  watch(leave: () => void): void {
    if (this.#config.redis.sentinels === null) return;
    this.#watch ??= SentinelWatch.join(this.#config, ({ host, port }) => {
      const { node } = this;
      if (node !== null && (node.host !== host || node.port !== port)) leave();
    });
    this.#watch.look();
  }

  /** Ends the watch. */
  end(): void {
    this.#watch?.end();
    this.#watch = undefined;
  }
}

type Emit = Parameters<AbstractConnector["connect"]>[0];

/**
 * What makes the connections of a client, each to the primary of that moment.
 * @param arrive is told where each of them goes
 */
function primaryConnector(config: Config, arrive: (node: Node) => void): RedisOptions["Connector"] {
  return class extends AbstractConnector {
    #asking: AbortController | undefined;
    #emit: Emit = () => {};

    constructor(options: unknown) {
      super((options as { disconnectTimeout: number }).disconnectTimeout);
    }

    override async connect(
      emit: Emit,
    ): ReturnType<AbstractConnector["connect"]> {
      this.connecting = true;
      this.#emit = emit;
      this.#asking = new AbortController();
      let node: Node;
      try {
        node = await primaryOf(config, this.#asking.signal);
      } catch (error) {
        // A socket that has failed: the client tries again as after any other failure.
        this.firstError = asError(error);
        return this.stream = new Socket().destroy();
      }
      if (!this.connecting) throw new ConnectionError("Connection is closed.");
      arrive(node);
      const socket = config.redis.tls
        ? connectGuarded(node, redisTrust(config.redis, node.host))
        : connect({ ...node });
      socket.once("error", (error) => this.firstError = error);
      return this.stream = socket;
    }

    /** Sentinels may name a server that is no primary any more, or not yet. */
    override check({ role }: { role?: string }): boolean {
      if (role !== "slave") return true;
      const why =
        "the sentinels name it as the primary, and it is a replica: a failover is under way, try again";
      this.#emit("error", new SentinelError(why));
      return false;
    }

    override disconnect(): void {
      super.disconnect();
      this.#asking?.abort();
    }
  };
}
