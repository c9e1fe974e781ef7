/**
 * The PEM files that the configuration names: certificates to trust, and those that a client shows with their keys.
 * No message tells what stands in a file.
 * @module
 */

import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { ConfigError, reasonOf } from "../core/errors.ts";

/** A certificate that a client shows, and its key, both as PEM. */
export interface ClientCertificate {
  /** with those that lead to its authority, where the file has them */
  readonly cert: string;
  readonly key: string;
}

/** A file, and the configuration's key that names it. */
interface NamedFile<File extends string | null = string> {
  readonly file: File;
  readonly named: string;
}

/**
 * The certificates of a PEM file, each as PEM; keys and comments are left out.
 * @throws {ConfigError} where the file cannot be read, or holds none
 */
export function certificatesIn(
  { file, named }: NamedFile,
  what = "the certificate of an authority, or of the server",
): string[] {
  const text = textOf({ file, named }, what);
  const found = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g);
  if (found === null) throw refusal(named, `${file} holds no certificate`, what);
  try {
    for (const pem of found) new X509Certificate(pem);
  } catch (error) {
    throw refusal(named, `a certificate in ${file} is damaged (${reasonOf(error)})`, what, error);
  }
  return found;
}

/**
 * What a client shows to a server that asks for it; `null` where no file is named.
 * @throws {ConfigError} where one of the two files is missing, is none, or does not belong to the other
 */
export function clientCertificate(
  certificate: NamedFile<string | null>,
  key: NamedFile<string | null>,
): ClientCertificate | null {
  const what = "the certificate that this client shows";
  const ofKey = `the private key of ${certificate.named}, not encrypted`;
  if (certificate.file === null) {
    if (key.file === null) return null;
    throw refusal(certificate.named, `${key.named} needs it`, what);
  }
  if (key.file === null) throw refusal(key.named, `${certificate.named} needs it`, ofKey);
  const certificates = certificatesIn({ ...certificate, file: certificate.file }, what);
  const found = keyIn({ ...key, file: key.file }, ofKey);
  if (!new X509Certificate(certificates[0]!).checkPrivateKey(found)) {
    const why = `the key in ${key.file} is not that of the certificate in ${certificate.file}`;
    throw refusal(key.named, why, ofKey);
  }
  return {
    cert: certificates.join("\n"),
    key: String(found.export({ type: "pkcs8", format: "pem" })), // which every TLS reads
  };
}

function keyIn({ file, named }: NamedFile, what: string): KeyObject {
  const text = textOf({ file, named }, what);
  const [pem] = /-----BEGIN ([A-Z]+ )?PRIVATE KEY-----[^]*?-----END ([A-Z]+ )?PRIVATE KEY-----/
    .exec(text) ?? [];
  if (pem === undefined) throw refusal(named, `${file} holds no private key`, what);
  if (pem.includes("ENCRYPTED")) throw refusal(named, `the key in ${file} is encrypted`, what);
  try {
    return createPrivateKey(pem);
  } catch {
    // Without its cause, which has seen the key.
    throw refusal(named, `the key in ${file} is damaged, or of an unknown kind`, what);
  }
}

function textOf({ file, named }: NamedFile, what: string): string {
  try {
    if (!Deno.statSync(file).isFile) throw new Error("it is no file");
    return Deno.readTextFileSync(file);
  } catch (error) {
    throw refusal(named, `cannot read ${file} (${reasonOf(error)})`, what, error);
  }
}

function refusal(named: string, why: string, what: string, cause?: unknown): ConfigError {
  return new ConfigError(`${named}: ${why}; expected the path of a PEM file with ${what}`, {
    cause,
  });
}
