/**
 * TLS to a server: which certificates are trusted, and why one is not. The check is ours, since Deno can trust no
 * certificate of a server by itself, unless that has signed itself, and calls one that has expired unverifiable.
 * @module
 */

import type { Buffer } from "node:buffer";
import { X509Certificate } from "node:crypto";
import { connect as connectPlainly, type Socket } from "node:net";
import {
  checkServerIdentity,
  connect,
  type ConnectionOptions,
  type PeerCertificate,
  type TLSSocket,
} from "node:tls";
import type { Config } from "./config.ts";
import { certificatesIn, type ClientCertificate, clientCertificate } from "./pem.ts";

/** libpq's modes without those that may go on without TLS. */
export type SslMode = Exclude<Config["postgresql"]["ssl"], boolean>;

/** What a database's part of the configuration says of TLS. */
export type DatabaseTls = Pick<
  Config["postgresql"],
  "host" | "ssl" | "sslrootcert" | "sslcert" | "sslkey"
>;

/** How messages name a key of the part of the configuration that has it: `host` is `postgresql.host`. */
export type NamedKey = (key: keyof Config["postgresql"]) => string;

/** The mode that a database's `ssl` means. */
function sslModeOf({ ssl, sslrootcert }: Pick<DatabaseTls, "ssl" | "sslrootcert">) {
  if (ssl === false || ssl === "disable") return "disable";
  // As in libpq: a weaker mode would make the system's authorities pointless.
  if (ssl === true || sslrootcert === SYSTEM) return "verify-full";
  return ssl === "require" && sslrootcert !== null ? "verify-ca" : ssl;
}

/** libpq's word for the authorities that are trusted anyway. */
const SYSTEM = "system";

/** What to trust: the host that is asked for, the mode, and the file of certificates with the key that names it. */
export interface TrustSettings {
  readonly host: string;
  readonly mode: Exclude<SslMode, "disable">;
  readonly file: string | null;
  readonly key: string;
  /** what helps where the certificate is for other names */
  readonly misnamed: string;
  /** what the client shows to a server that asks for it */
  readonly own: ClientCertificate | null;
}

/** Options for `tls.connect`; a socket made with them must be guarded before anything is sent. */
export interface Trust {
  readonly options: ConnectionOptions;
  /** Destroys the socket before anything is sent, with the reason, where the server's certificate is not trusted. */
  guard(socket: TLSSocket): void;
}

/**
 * Reads what is trusted.
 * @throws {ConfigError} where the file cannot be read, or holds no certificate
 */
function trustOf(settings: TrustSettings): Trust {
  const { host, mode, file, key, own } = settings;
  const trusted = file === null ? null : certificatesIn({ file, named: key });
  const pins = trusted?.map((pem) => new X509Certificate(pem).raw) ?? [];
  const named = (_: string, certificate: PeerCertificate) => checkServerIdentity(host, certificate);
  return {
    options: {
      ...(trusted === null ? {} : { ca: trusted }),
      ...own,
      rejectUnauthorized: false, // the guard rejects
      checkServerIdentity: mode === "verify-full" ? named : () => undefined,
    },
    guard: (socket) => {
      // Deno tells an alert of the server as an error, and writes to it may fail as well; a client listens to one.
      socket.on("error", () => {});
      socket.prependOnceListener("secureConnect", () => {
        const why = mode === "require" ? undefined : objection(socket, settings, pins);
        if (why !== undefined) socket.destroy(new CertificateError(why));
      });
    },
  };
}

/**
 * The trust of the section `redis`.
 * @param host of the server: its certificate must be for it
 */
export function redisTrust(
  { sentinels, tls_ca_file: file, tls_cert_file, tls_key_file }: Config["redis"],
  host: string,
): Trust {
  const misnamed = sentinels === null
    ? "set redis.host to one of them"
    : "name the sentinels so, and have them announce the servers so (sentinel announce-hostnames yes)";
  const own = clientCertificate(
    { file: tls_cert_file, named: "redis.tls_cert_file" },
    { file: tls_key_file, named: "redis.tls_key_file" },
  );
  return trustOf({ host, mode: "verify-full", file, key: "redis.tls_ca_file", misnamed, own });
}

/** The trust of a database; `null` without TLS. */
export function databaseTrust(named: NamedKey, given: DatabaseTls): Trust | null {
  const { host, sslrootcert, sslcert, sslkey } = given;
  const file = sslrootcert === SYSTEM ? null : sslrootcert;
  const mode = sslModeOf(given);
  if (mode === "disable") return null;
  const misnamed = `set ${named("host")} to one of them, or ${named("ssl")} to verify-ca`;
  const own = clientCertificate(
    { file: sslcert, named: named("sslcert") },
    { file: sslkey, named: named("sslkey") },
  );
  return trustOf({ host, mode, file, key: named("sslrootcert"), misnamed, own });
}

/** The server's certificate is not trusted; the message says what to do. */
export class CertificateError extends Error {}

function objection(
  socket: TLSSocket,
  { host, mode, file, key, misnamed }: TrustSettings,
  pins: readonly Buffer[],
): string | undefined {
  if (socket.authorized) return undefined;
  const certificate = socket.getPeerCertificate();
  const { raw, valid_from, valid_to, issuer, subject, subjectaltname } = certificate;
  if (raw === undefined) return "the server has shown no certificate";
  const now = Date.now(); // a certificate tells times of the day
  if (Date.parse(valid_to) < now) {
    return `the server's certificate has expired on ${day(valid_to)}: renew it`;
  }
  if (Date.parse(valid_from) > now) {
    return `the server's certificate is not valid before ${day(valid_from)}: check the clocks`;
  }
  const code = String(socket.authorizationError);
  if (code !== MISNAMED && !pins.some((pin) => pin.equals(raw))) {
    const name = shownName(issuer);
    const signer = name === shownName(subject) ? "itself" : `the authority ${name}`;
    const trusted = file === null ? "is not trusted" : `is not in ${file}`;
    return `the server's certificate is signed by ${signer}, which ${trusted} (${code}): set ${key} to a file ` +
      "with the certificate of the authority, or of the server";
  }
  if (mode === "verify-full" && checkServerIdentity(host, certificate) !== undefined) {
    const names = clean(
      subjectaltname?.replaceAll(/\b(DNS|IP Address):/g, "") ?? shownName(subject),
    );
    return `the server's certificate is for ${names}, not for ${host}: ${misnamed}`;
  }
  return undefined;
}

/** Node's code for a certificate that is trusted, and for other names. */
const MISNAMED = "ERR_TLS_CERT_ALTNAME_INVALID";

const day = (time: string) => new Date(time).toISOString().slice(0, 10);

function shownName(name: PeerCertificate["issuer"] | undefined): string {
  return clean(
    Object.entries(name ?? {}).map(([part, value]) => `${part}=${value}`).join(", "),
  );
}

/** A server may have put anything into its certificate. */
const clean = (text: string) => text.replaceAll(/\p{Cc}/gu, " ").slice(0, 200);

/** The keys of the configuration that name what a client shows. */
export interface OwnCertificateKeys {
  readonly certificate: string;
  readonly key: string;
}

/**
 * What a server's answer says of the certificate that a client shows, and what to do; `null` where it says nothing of it.
 * @param reason the alert of TLS, or PostgreSQL's word
 * @param shown whether there is one
 */
export function serversObjection(
  reason: string,
  shown: boolean,
  { certificate, key }: OwnCertificateKeys,
): string | null {
  if (/CertificateRequired|requires a valid client certificate/i.test(reason)) {
    return `the server wants a certificate of its clients: set ${certificate} and ${key}`;
  }
  const [, alert] = /fatal alert: ((?:\w*Certificate\w*|UnknownCA|AccessDenied))/.exec(reason) ??
    [];
  if (alert === undefined || !shown) return null;
  return `the server does not take the certificate of ${certificate} (${alert}): name one that is valid, and that an ` +
    "authority which the server trusts has signed";
}

/** How long a server may take to show what it speaks, in ms. */
const PATIENCE_MS = 2000;

/** Whether a server begins a connection by TLS, with any certificate. */
export async function speaksTls(host: string, port: number): Promise<boolean> {
  const socket = connect({ host, port, rejectUnauthorized: false });
  return await firstOf(socket, "secureConnect") !== null;
}

/** What a server answers first to these bytes without TLS; "" for nothing. */
export async function answerTo(host: string, port: number, bytes: string): Promise<string> {
  const socket = connectPlainly({ host, port });
  socket.write(bytes, "latin1");
  return await firstOf(socket, "data") ?? "";
}

/** What comes with the event, as text; `null` where the socket closes before. */
function firstOf(socket: Socket, event: "secureConnect" | "data"): Promise<string | null> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => socket.destroy(), PATIENCE_MS);
    socket.once(event, (data?: Buffer) => {
      resolve(data?.toString("latin1") ?? "");
      socket.destroy();
    });
    socket.on("error", () => {}); // then it closes
    socket.once("close", () => {
      clearTimeout(timer);
      resolve(null);
    });
  });
}
