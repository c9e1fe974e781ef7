import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectPostgres,
  type DeepPartial,
  insertDocument,
  parseConfig,
} from "writebehind";
import type { PostgresServer } from "writebehind/dev/servers/postgres.ts";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { ACCEPTED, badPairs, CERTIFICATES, REFUSALS } from "../../support/certificates.ts";
import { fails, SECRET } from "../../support/connecting.ts";
import { rowsOf, testPipeline } from "../../support/pipeline.ts";
import { startTask } from "../../support/processes.ts";
import { asOwner, queryAt, testFolder, testPostgres, waitFor } from "../../support/servers.ts";

/** Everybody by password; but the owner, by TLS alone. */
const HBA = "host all postgres all scram-sha-256\nhostssl all all all scram-sha-256";

/** Writes a file into the data folder, as the account that the server runs under. */
function write(server: PostgresServer, name: string, text: string): Promise<void> {
  const lines = `SELECT unnest(string_to_array('${text.trim()}', E'\\n'))`;
  return asOwner(server, `COPY (${lines}) TO PROGRAM 'umask 077; cat > ${name}'`);
}

/** Has new connections see a setting, and what was written into the files that the settings name. */
async function set(server: PostgresServer, setting: string): Promise<void> {
  const mark = crypto.randomUUID();
  await asOwner(server, `ALTER SYSTEM SET ${setting}`);
  await asOwner(server, `ALTER SYSTEM SET log_line_prefix = '${mark}'`);
  await asOwner(server, "SELECT pg_reload_conf()");
  await waitFor(async () => {
    const [row] = await queryAt(server.ownerUrl, "SHOW log_line_prefix");
    return row!.log_line_prefix === mark;
  }, { what: `the server to take ${setting}` });
}

async function shows(server: PostgresServer, name: keyof typeof CERTIFICATES): Promise<void> {
  const pem = await Deno.readTextFile(CERTIFICATES[name]);
  await write(server, "server.key", pem);
  await write(server, "server.crt", pem);
  await set(server, "ssl = on");
}

/** Has the server trust the authority's clients, and ask for their certificates by these lines. */
async function asksFor(server: PostgresServer, ...lines: string[]): Promise<void> {
  const rest = "host all all all scram-sha-256";
  await write(server, "pg_hba.conf", [...lines, rest].join("\n"));
  const authority = await Deno.readTextFile(CERTIFICATES.authority);
  await write(server, "root.crt", authority.slice(authority.indexOf("-----BEGIN CERTIFICATE")));
  await set(server, "ssl_ca_file = 'root.crt'");
  await shows(server, "server");
}

Deno.test("PostgreSQL: certificates are trusted by a file, and every reason why not", async () => {
  await using server = await testPostgres();
  const { port, user, database } = server;
  await asOwner(server, `ALTER ROLE ${user} PASSWORD '${SECRET}'`);
  const of = (more: DeepPartial<Config["postgresql"]>) =>
    configWith(parseConfig("", "test.yaml"), {
      postgresql: { host: "localhost", port, user, database, password: SECRET, ssl: true, ...more },
    });
  const serves = async (more: DeepPartial<Config["postgresql"]>) => {
    await using pool = await connectPostgres(of(more));
    const { rows: [row] } = await pool.query(
      "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    );
    assert.equal(row.ssl, true, JSON.stringify(more));
  };
  const refused = (
    more: DeepPartial<Config["postgresql"]>,
    kind: typeof ConfigError | typeof ConnectionError,
    ...words: string[]
  ) => fails(connectPostgres(of(more)).then(() => ({})), kind, ...words);

  await refused({}, ConnectionError, "speaks no TLS: turn its ssl on, or set postgresql.ssl");
  await write(server, "pg_hba.conf", HBA);
  await shows(server, "server");
  for (const ssl of [false, "disable"] as const) {
    await refused({ ssl }, ConnectionError, "no encryption: the server speaks TLS, set");
  }

  for (const [name, trusted] of ACCEPTED) {
    await shows(server, name);
    const sslrootcert = CERTIFICATES[trusted];
    for (const ssl of [true, "require", "verify-ca", "verify-full"] as const) {
      await serves({ ssl, sslrootcert });
    }
  }
  for (const [name, trusted, words] of REFUSALS) {
    await shows(server, name);
    const sslrootcert = trusted && CERTIFICATES[trusted];
    const named = /is for/.test(words[0]!);
    const remedy = /signed/.test(words[0]!)
      ? ["set postgresql.sslrootcert to a file"]
      : named
      ? ["set postgresql.host to one of them"]
      : [];
    await refused({ sslrootcert }, ConnectionError, ...words, ...remedy);
    // As in libpq: verify-ca asks for no name, require for nothing, unless there is a file.
    for (const ssl of ["verify-ca", "require"] as const) {
      const accepted = named || (ssl === "require" && trusted === null);
      if (accepted) await serves({ ssl, sslrootcert });
      else await refused({ ssl, sslrootcert }, ConnectionError, ...words);
    }
  }
  // libpq's word for the authorities that are trusted anyway.
  await shows(server, "server");
  await refused({ ssl: "require", sslrootcert: "system" }, ConnectionError, "which is not trusted");

  const nowhere = testFolder("certificate");
  await refused({ sslrootcert: nowhere }, ConfigError, "postgresql.sslrootcert: cannot read /");
  // Where nothing but plaintext is allowed, the server's words say so.
  await write(server, "pg_hba.conf", HBA.replace("hostssl", "hostnossl"));
  await shows(server, "server");
  await refused({ sslrootcert: CERTIFICATES.server }, ConnectionError, "no pg_hba.conf entry");
});

Deno.test("PostgreSQL: a client shows its certificate, and every reason why that is of no use", async () => {
  await using server = await testPostgres();
  const { port, database } = server;
  for (const role of ["client", "other", "alone"]) {
    await asOwner(server, `CREATE ROLE ${role} LOGIN PASSWORD '${SECRET}'`);
  }
  const asks = ["client", "other"].map((role) =>
    `hostssl all ${role} all scram-sha-256 clientcert=verify-full`
  );
  await asksFor(server, ...asks, "hostssl all alone all cert");
  const connected = (user: string, sslcert: string | null, sslkey: string | null) => {
    const sslrootcert = CERTIFICATES.authority;
    const given = { host: "localhost", port, user, database, password: SECRET, ssl: true };
    return connectPostgres(
      configWith(parseConfig("", "test.yaml"), {
        postgresql: { ...given, sslrootcert, sslcert, sslkey },
      }),
    );
  };
  const refused = (
    connecting: ReturnType<typeof connected>,
    kind: typeof ConfigError | typeof ConnectionError,
    ...words: string[]
  ) => fails(connecting.then(() => ({})), kind, ...words);

  const { client, itself } = CERTIFICATES;
  {
    await using pool = await connected("client", client, client);
    const { rows: [row] } = await pool.query(
      "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    );
    assert.equal(row.client_dn, "/CN=client");
  }
  for (const user of ["client", "alone"]) {
    await refused(
      connected(user, null, null),
      ConnectionError,
      "wants a certificate of its clients: set postgresql.sslcert and postgresql.sslkey",
    );
    await refused(
      connected(user, itself, itself),
      ConnectionError,
      "does not take the certificate of postgresql.sslcert (UnknownCA)",
    );
  }
  for (const user of ["other", "alone"]) {
    await refused(
      connected(user, client, client),
      ConnectionError,
      `authentication failed for user ${user}: `,
      `and that the certificate of postgresql.sslcert is of ${user}`,
    );
  }
  const folder = testFolder("pairs");
  await Deno.mkdir(folder);
  for (const [certificate, key, words] of badPairs(folder)) {
    const named = words.replace(/^(CERT|KEY)/, (which) => `postgresql.ssl${which.toLowerCase()}`);
    await refused(connected("client", certificate, key), ConfigError, named);
  }
});

Deno.test("a sink shows its certificate to both servers, by the variables", async () => {
  const tlsPort = freePort();
  const extraArgs = [
    ...["--tls-port", String(tlsPort), "--tls-auth-clients", "yes"],
    ...["--tls-cert-file", CERTIFICATES.server, "--tls-key-file", CERTIFICATES.server],
    ...["--tls-ca-cert-file", CERTIFICATES.authority],
  ];
  await using pipeline = await testPipeline({}, { redis: { extraArgs } });
  const { servers: { postgres }, config, redis } = pipeline;
  const { user, port, database } = config.postgresql;
  await asOwner(postgres, "CREATE ROLE client LOGIN");
  await asOwner(postgres, `GRANT ${user} TO client`);
  await asksFor(postgres, "hostssl all client all cert");
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  const [authority, client] = [CERTIFICATES.authority, CERTIFICATES.client].map(encodeURIComponent);
  await using sink = startTask(["sink"], {
    NO_COLOR: "1",
    REDIS_URL: `rediss://localhost:${tlsPort}?ssl_ca_certs=${authority}` +
      `&ssl_certfile=${client}&ssl_keyfile=${client}`,
    DATABASE_URL: `postgresql://client@localhost:${port}/${database}` +
      `?sslmode=verify-full&sslrootcert=${authority}&sslcert=${client}&sslkey=${client}`,
  });
  await waitFor(async () => (await rowsOf(pipeline)).has("a"), {
    what: "the row",
    deadlineMs: 20_000,
  });
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
});
