/** TLS to a real MariaDB: what is trusted, what is shown, and what is said where either fails. */

import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectRedis,
  type DeepPartial,
  insertDocument,
  openTarget,
  parseConfig,
  RedisWriteBehind,
  type TargetConfig,
  verify,
} from "writebehind";
import { ACCEPTED, badPairs, CERTIFICATES, REFUSALS } from "../../support/certificates.ts";
import { fails, SECRET } from "../../support/connecting.ts";
import { isInstalled } from "../../support/programs.ts";
import { testFolder, testMariadb, testRedis } from "../../support/servers.ts";
import { databaseOn } from "./place.ts";

const ignore = !isInstalled("mariadbd");

type Given = Extract<TargetConfig, { kind: "mysql" }>;

/** A MariaDB that speaks TLS with any of the certificates, asks for those of the authority, and a database on it. */
async function tlsServer(extraArgs: readonly string[] = []) {
  await using stack = new AsyncDisposableStack();
  const pem = testFolder("shown");
  await Deno.copyFile(CERTIFICATES.server, pem);
  const server = stack.use(
    await testMariadb([
      ...[`--ssl-key=${pem}`, `--ssl-cert=${pem}`, `--ssl-ca=${CERTIFICATES.authority}`],
      ...extraArgs,
    ]),
  );
  const database = stack.use(await databaseOn(server, { rejectUnauthorized: false }));
  const { run } = database;
  await run(`CREATE USER plain IDENTIFIED BY '${SECRET}' REQUIRE SSL; GRANT ALL ON *.* TO plain`);
  await run("SET GLOBAL log_output = 'TABLE', GLOBAL general_log = ON");
  const target: Given = {
    ...database.target,
    ...{ host: "localhost", user: "plain", password: SECRET, ssl: "verify-full" },
  };
  const of = (more: Partial<Given>, overrides: DeepPartial<Config> = {}) =>
    configWith(parseConfig("", "test.yaml"), { ...overrides, targets: [{ ...target, ...more }] });
  const owned = stack.move();
  return {
    run,
    of,
    /** has new connections see a certificate */
    shows: async (name: keyof typeof CERTIFICATES) => {
      await Deno.copyFile(CERTIFICATES[name], pem);
      await run("FLUSH SSL");
    },
    /** the names that servers were told since the last time */
    told: async () => {
      const told = await run(
        "SELECT argument FROM mysql.general_log WHERE command_type = 'Connect'",
      ) as { argument: string | Uint8Array }[];
      await run("TRUNCATE mysql.general_log");
      return told.map(({ argument }) => String(argument).split("@")[0]);
    },
    refused: (
      more: Partial<Given>,
      kind: typeof ConfigError | typeof ConnectionError,
      ...words: string[]
    ) => fails(openTarget(of(more)), kind, ...words),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

Deno.test({
  name: "MariaDB: certificates are trusted by a file, and every reason why not",
  ignore,
}, async () => {
  await using server = await tlsServer();
  const { of, refused, shows } = server;
  const serves = async (more: Partial<Given>) => {
    await using target = await openTarget(of(more));
    await target.migrate("session");
  };
  for (const [name, trusted] of ACCEPTED) {
    await shows(name);
    const sslrootcert = CERTIFICATES[trusted];
    for (const ssl of ["require", "verify-ca", "verify-full"] as const) {
      await serves({ ssl, sslrootcert });
    }
  }
  await shows("server");
  await serves({ host: "127.0.0.1", sslrootcert: CERTIFICATES.authority });
  await server.told();
  for (const [name, trusted, words] of REFUSALS) {
    await shows(name);
    const sslrootcert = trusted && CERTIFICATES[trusted];
    const named = /is for/.test(words[0]!);
    const remedy = /signed/.test(words[0]!)
      ? ["set targets.second.sslrootcert to a file"]
      : named
      ? ["set targets.second.host to one of them, or targets.second.ssl to verify-ca"]
      : [];
    await refused(
      { sslrootcert },
      ConnectionError,
      "Cannot connect to MySQL at",
      ...words,
      ...remedy,
    );
    assert(!(await server.told()).includes("plain"), "a server that is not trusted was told");
    // As in libpq: verify-ca asks for no name, require for nothing, unless there is a file.
    for (const ssl of ["verify-ca", "require"] as const) {
      const accepted = named || (ssl === "require" && trusted === null);
      if (accepted) await serves({ ssl, sslrootcert });
      else await refused({ ssl, sslrootcert }, ConnectionError, ...words);
    }
    await server.told();
  }
});

Deno.test({
  name: "MariaDB: a client shows its certificate, and every reason why that is of no use",
  ignore,
}, async () => {
  await using server = await tlsServer();
  const { run, of, refused } = server;
  for (const [user, demand] of [["client", "SUBJECT '/CN=client'"], ["other", "SUBJECT '/CN=o'"]]) {
    await run(
      `CREATE USER ${user} IDENTIFIED BY '${SECRET}' REQUIRE ${demand}; GRANT ALL ON *.* TO ${user}`,
    );
  }
  const { authority: sslrootcert, client, itself } = CERTIFICATES;
  const showing = (user: string, sslcert: string | null, sslkey = sslcert) => ({
    ...{ sslrootcert, user, sslcert, sslkey },
  });
  {
    await using target = await openTarget(of(showing("client", client)));
    await target.migrate("session");
  }
  const denied = "check user and password of this target, and ";
  await refused(
    showing("client", null),
    ConnectionError,
    `${denied}sslcert where the server demands a certificate of this user`,
  );
  await refused(
    showing("other", client),
    ConnectionError,
    `${denied}that the server takes the certificate of targets.second.sslcert for this user`,
  );
  await refused({ ssl: "disable" }, ConnectionError, `${denied}ssl where the server demands TLS`);
  await refused(
    showing("client", itself),
    ConnectionError,
    "does not take the certificate of targets.second.sslcert (UnknownCA)",
  );
  const folder = testFolder("pairs");
  await Deno.mkdir(folder);
  for (const [certificate, key, words] of badPairs(folder)) {
    const named = words.replace(
      /^(CERT|KEY)/,
      (which) => `targets.second.ssl${which.toLowerCase()}`,
    );
    await refused(showing("client", certificate, key), ConfigError, named);
  }
  const nowhere = testFolder("certificate");
  await refused({ sslrootcert: nowhere }, ConfigError, "targets.second.sslrootcert: cannot read /");
});

Deno.test(
  { name: "MariaDB: a server without TLS is not used where TLS is asked for", ignore },
  async () => {
    await using server = await testMariadb();
    await using database = await databaseOn(server);
    for (const ssl of ["require", "verify-full"] as const) {
      const config = configWith(parseConfig("", "test.yaml"), {
        targets: [{ ...database.target, ssl }],
      });
      const words = "the server speaks no TLS: give it a certificate (ssl_cert, ssl_key), or set";
      await fails(openTarget(config), ConnectionError, words, "set targets.second.ssl to disable");
    }
  },
);

Deno.test(
  { name: "MariaDB: a sink drains by TLS, small batches and large ones", ignore },
  async () => {
    await using server = await tlsServer(["--require-secure-transport=ON"]);
    await using redisServer = await testRedis();
    const config = server.of(
      { sslrootcert: CERTIFICATES.authority },
      { redis: { host: redisServer.host, port: redisServer.port }, streams: { partitions: 4 } },
    );
    await using redis = await connectRedis(config);
    await using target = await openTarget(config);
    await using sink = new RedisWriteBehind(redis, target, config, "session");
    await insertDocument(redis, config, "session", { text: "x".repeat(3_000_000) }, "large");
    await sink.drain();
    for (let n = 0; n < 2000; n++) await insertDocument(redis, config, "session", { n }, `d${n}`);
    await sink.drain();
    assert.equal((await verify(redis, target, config, "session")).equal, 2001);
  },
);
