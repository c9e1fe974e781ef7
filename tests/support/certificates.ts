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

/** What a server may show, and a client trusts. */
export const ACCEPTED: [keyof typeof CERTIFICATES, keyof typeof CERTIFICATES][] = [
  ["server", "authority"],
  ["server", "server"],
  ["itself", "itself"],
];
