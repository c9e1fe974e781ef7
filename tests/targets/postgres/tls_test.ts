import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectPostgres,
  type DeepPartial,
  parseConfig,
} from "writebehind";
import type { PostgresServer } from "writebehind/dev/servers/postgres.ts";
import { ACCEPTED, CERTIFICATES, REFUSALS } from "../../support/certificates.ts";
import { fails, SECRET } from "../../support/connecting.ts";
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
