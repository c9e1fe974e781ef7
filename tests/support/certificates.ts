/** Certificates for servers of tests, with keys that protect nothing; `certificates/make.sh` makes them anew. */

import { join } from "node:path";

const file = (...path: string[]) => join(import.meta.dirname!, ...path);

/** PEM files; but for the last, they are or were signed by the first. */
export const CERTIFICATES = {
  authority: file("certificates", "authority.pem"),
  /** for `localhost` and 127.0.0.1 */
  server: file("certificates", "server.pem"),
  expired: file("certificates", "expired.pem"),
  /** for another host than this one */
  elsewhere: file("certificates", "elsewhere.pem"),
  /** of a client, for a role of that name */
  client: file("certificates", "client.pem"),
  /** signed by itself, for `localhost` */
  itself: file("localhost.pem"),
};

/** What a client sees of servers that show these certificates, whatever kind of server it is. */
export const REFUSALS: [
  shown: keyof typeof CERTIFICATES,
  trusted: keyof typeof CERTIFICATES | null,
  words: string[],
][] = [
  ["server", null, ["signed by the authority CN=authority, which is not trusted"]],
  ["itself", null, ["signed by itself, which is not trusted"]],
  ["itself", "authority", ["signed by itself, which is not in /"]],
  ["server", "itself", ["signed by the authority CN=authority, which is not in /"]],
  ["elsewhere", "authority", ["is for elsewhere.example, not for localhost"]],
  ["elsewhere", "elsewhere", ["is for elsewhere.example, not for localhost"]],
  ["expired", "authority", ["has expired on 2021-01-01: renew it"]],
  ["expired", "expired", ["has expired on 2021-01-01: renew it"]],
];

/** A certificate and a key of a client that are none, each with what is said of it. */
export function badPairs(
  folder: string,
): [certificate: string | null, key: string | null, words: string][] {
  const { client, server } = CERTIFICATES;
  const pem = Deno.readTextFileSync(client);
  const at = pem.indexOf("-----BEGIN CERTIFICATE");
  const [key, certificate] = [pem.slice(0, at), pem.slice(at)];
  const written = (name: string, text: string) => {
    Deno.writeTextFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const half = key.slice(0, key.length / 2);
  const damaged = written("damaged", `${half}\n-----END PRIVATE KEY-----\n`);
  const encrypted = written("encrypted", key.replaceAll("PRIVATE", "ENCRYPTED PRIVATE"));
  return [
    [join(folder, "none"), client, "CERT: cannot read /"],
    [client, join(folder, "none"), "KEY: cannot read /"],
    [folder, client, "CERT: cannot read /"],
    [written("key", key), client, "key holds no certificate; expected the path of a PEM file with"],
    [client, written("certificate", certificate), "certificate holds no private key; expected"],
    [client, damaged, "KEY: the key in /"],
    [client, damaged, "is damaged, or of an unknown kind; expected"],
    [client, encrypted, "encrypted is encrypted; expected the path of a PEM file with the private"],
    [client, server, "server.pem is not that of the certificate in /"],
    [client, null, "KEY: "],
    [null, client, "CERT: "],
  ];
}

/** What a server may show, and a client trusts. */
export const ACCEPTED: [keyof typeof CERTIFICATES, keyof typeof CERTIFICATES][] = [
  ["server", "authority"],
  ["server", "server"],
  ["itself", "itself"],
];
