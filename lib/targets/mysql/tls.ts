/**
 * TLS to MySQL and MariaDB. The driver's own checks are replaced by those that hold for every server: they know a
 * server's certificate as well as an authority's, and say why one is not trusted.
 * @module
 */

import type { Buffer } from "node:buffer";
import { isIP, type Socket } from "node:net";
import { connect } from "node:tls";
import { PoolConnection, type SslOptions } from "mysql2";
import type { Trust } from "../../config/tls.ts";

/** What the driver's connections have, and its types do not. */
interface OwnConnection {
  readonly config: { readonly host: string; readonly ssl: SslOptions };
  readonly packetParser: { execute(data: Buffer | string): void };
  stream: Socket;
  startTLS(onSecure: (error?: Error) => void): void;
  _handleNetworkError(error: Error): void;
}

/** By the options of a pool. */
const trusts = new WeakMap<SslOptions, Trust>();

/** The option `ssl` of a pool whose connections send nothing to a server that is not trusted. */
export function guarded(trust: Trust): SslOptions {
  // Were our own check ever left out, these would have the driver refuse too much, and never too little.
  const options = { rejectUnauthorized: true, verifyIdentity: true };
  trusts.set(options, trust);
  return options;
}

const connection = PoolConnection.prototype as unknown as OwnConnection;
const { startTLS } = connection;

connection.startTLS = function (onSecure) {
  const { host, ssl } = this.config;
  const trust = trusts.get(ssl);
  if (trust === undefined) return startTLS.call(this, onSecure); // somebody else's pool
  this.stream.removeAllListeners("data");
  const servername = isIP(host) ? {} : { servername: host };
  const socket = connect({ ...trust.options, ...servername, socket: this.stream });
  trust.guard(socket);
  let secure = false;
  socket.once("secureConnect", () => {
    if (socket.destroyed) return; // by the guard; its reason follows
    secure = true;
    onSecure();
  });
  socket.on("error", (error) => secure ? this._handleNetworkError(error) : onSecure(error));
  socket.on("data", (data) => this.packetParser.execute(data));
  this.stream = socket;
};
