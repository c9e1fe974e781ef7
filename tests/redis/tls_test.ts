import assert from "node:assert/strict";
import {
  type Config,
  ConfigError,
  configWith,
  ConnectionError,
  connectRedis,
  type DeepPartial,
  insertDocument,
  parseConfig,
} from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { RespConnection } from "writebehind/redis/resp.ts";
import { ACCEPTED, badPairs, CERTIFICATES, REFUSALS } from "../support/certificates.ts";
import { fails, SECRET } from "../support/connecting.ts";
import { rowsOf, testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { testFolder, testRedis, waitFor } from "../support/servers.ts";

const tlsArgs = (port: number, clients = "no") => [
  ...["--tls-port", String(port), "--tls-auth-clients", clients],
  ...["--tls-cert-file", CERTIFICATES.itself, "--tls-key-file", CERTIFICATES.itself],
  ...["--tls-ca-cert-file", CERTIFICATES.authority],
];

Deno.test("a sink drains a Redis that speaks TLS and asks for a user, and refuses one that it cannot trust", async () => {
  const port = freePort();
  await using pipeline = await testPipeline({}, { redis: { extraArgs: tlsArgs(port) } });
  const { redis, config } = pipeline;
  await redis.call("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "&*", "+@all");
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  const env = {
    ...environmentOf(config),
    REDIS_URL: `rediss://app:hunter2@localhost:${port}`,
  };
  {
    await using stranger = startTask(["sink"], env);
    assert.equal((await stranger.status).code, 1);
    assert.match(stranger.output(), /Cannot connect to Redis at localhost:\d+: .*certificate/);
    assert(!stranger.output().includes("hunter2"));
  }
  const trusted = [
    { ...env, DENO_CERT: CERTIFICATES.itself },
    {
      ...env,
      REDIS_URL: `${env.REDIS_URL}?ssl_ca_certs=${encodeURIComponent(CERTIFICATES.itself)}`,
    },
  ];
  for (const [index, variables] of trusted.entries()) {
    await using sink = startTask(["sink"], variables);
    await waitFor(async () => (await rowsOf(pipeline)).has("a"), {
      what: "the first row",
      deadlineMs: 20_000,
    });
    // What comes while the sink waits goes the same way.
    await insertDocument(redis, config, "session", { n: 2 }, `b${index}`);
    await waitFor(async () => (await rowsOf(pipeline)).has(`b${index}`), { what: "the next row" });
    const names = await redis.call("CLIENT", "LIST") as string;
    assert.match(names, /user=app .*name=writebehind-reader|name=writebehind-reader .*user=app/);
    sink.kill("SIGTERM");
    assert.equal((await sink.status).code, 0, sink.output());
  }
});

Deno.test("Redis: certificates are trusted by a file, and every reason why not", async () => {
  const port = freePort();
  await using server = await testRedis({ extraArgs: tlsArgs(port) });
  const of = (more: DeepPartial<Config["redis"]>) =>
    configWith(parseConfig("", "test.yaml"), {
      redis: {
        ...{ host: "localhost", port, tls: true, password: SECRET },
        ...{ command_timeout_ms: 1500, ...more },
      },
    });
  const plain = { port: server.port, tls: false, password: null };
  await using redis = await connectRedis(of(plain));
  await redis.call("ACL", "SETUSER", "default", "resetpass", `>${SECRET}`);
  const shows = (name: keyof typeof CERTIFICATES) =>
    redis.call(
      ...["CONFIG", "SET"] as const,
      ...["tls-cert-file", CERTIFICATES[name], "tls-key-file", CERTIFICATES[name]],
    );
  /** Both of our clients say the same. */
  const refused = async (
    more: DeepPartial<Config["redis"]>,
    kind: typeof ConfigError | typeof ConnectionError,
    ...words: string[]
  ) => {
    await fails(connectRedis(of(more)).then(() => ({})), kind, ...words);
    await fails(RespConnection.open(of(more), of(more).redis).then(() => ({})), kind, ...words);
  };

  for (const [name, trusted] of ACCEPTED) {
    await shows(name);
    // What goes well may take its time.
    const config = of({ tls_ca_file: CERTIFICATES[trusted], command_timeout_ms: 20_000 });
    await using client = await connectRedis(config);
    assert.equal(await client.set("a", "1"), "OK");
    const reader = await RespConnection.open(config, config.redis);
    assert.equal(String(await reader.call(["GET", "a"])), "1");
    const large = "x".repeat(3_000_000);
    await reader.call(["SET", "b", large]);
    assert.equal(String(await reader.call(["GET", "b"])), large);
    reader.close();
  }
  await redis.call("CONFIG", "RESETSTAT");
  for (const [name, trusted, words] of REFUSALS) {
    await shows(name);
    const tls_ca_file = trusted && CERTIFICATES[trusted];
    const remedy = /signed/.test(words[0]!) ? ["set redis.tls_ca_file to a file"] : [];
    await refused({ tls_ca_file }, ConnectionError, ...words, ...remedy);
  }
  const sent = await redis.call("INFO", "commandstats") as string;
  assert(!/cmdstat_(auth|hello)/.test(sent), "a server that is not trusted has got the password");

  const nowhere = testFolder("certificate");
  await refused({ tls_ca_file: nowhere }, ConfigError, "redis.tls_ca_file: cannot read /");
  await refused({ tls_ca_file: "/" }, ConfigError, "redis.tls_ca_file: cannot read /");
  await Deno.writeTextFile(nowhere, "none");
  await refused({ tls_ca_file: nowhere }, ConfigError, "holds no certificate; expected");
  const damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
  await Deno.writeTextFile(nowhere, damaged);
  await refused({ tls_ca_file: nowhere }, ConfigError, "is damaged");

  await refused({ tls: false }, ConnectionError, "speaks TLS: set redis.tls to true");
  await refused({ port: server.port }, ConnectionError, "speaks no TLS there: set redis.port");
  await shows("server");
  await redis.call("CONFIG", "SET", "tls-auth-clients", "yes");
  await refused(
    { tls_ca_file: CERTIFICATES.authority },
    ConnectionError,
    "wants a certificate of its clients: set redis.tls_cert_file and redis.tls_key_file",
  );
  const authority = { tls_ca_file: CERTIFICATES.authority };
  const showing = (certificate: string | null, key: string | null) => ({
    ...{ ...authority, tls_cert_file: certificate, tls_key_file: key },
  });
  const shown = of({
    ...showing(CERTIFICATES.client, CERTIFICATES.client),
    command_timeout_ms: 20_000,
  });
  await using client = await connectRedis(shown);
  assert.equal(await client.set("a", "2"), "OK");
  const reader = await RespConnection.open(shown, shown.redis);
  assert.equal(String(await reader.call(["GET", "a"])), "2");
  reader.close();
  await refused(
    showing(CERTIFICATES.itself, CERTIFICATES.itself),
    ConnectionError,
    "does not take the certificate of redis.tls_cert_file (",
  );
  const folder = testFolder("pairs");
  await Deno.mkdir(folder);
  for (const [certificate, key, words] of badPairs(folder)) {
    const named = words.replace(/^(CERT|KEY)/, (which) => `redis.tls_${which.toLowerCase()}_file`);
    await refused(showing(certificate, key), ConfigError, named);
  }
});
