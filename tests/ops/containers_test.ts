/** No Docker runs where this is tested: the files are read, their references followed, the image's steps done by hand. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { insertDocument } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { parse } from "yaml";
import { rowsOf, testPipeline } from "../support/pipeline.ts";
import { environmentOf } from "../support/processes.ts";
import { testFolder, waitFor } from "../support/servers.ts";

interface Service {
  profiles?: string[];
  image?: string;
  build?: string;
  environment?: Record<string, string>;
  ports?: string[];
  volumes?: string[];
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: unknown;
}

const read = (path: string) => Deno.readTextFile(join(CHECKOUT, path));
const there = (path: string) => Deno.stat(join(CHECKOUT, path));

const compose: { services: Record<string, Service>; volumes: Record<string, null> } = parse(
  await read("docker-compose.yml"),
);
const { services } = compose;

/** The instructions of the Dockerfile, in order. */
const instructions = (await read("Dockerfile")).replaceAll(/\\\n/g, "").split("\n")
  .filter((line) => /^[A-Z]/.test(line))
  .map((line) => /^(\w+) (.*)$/.exec(line)!.slice(1) as [string, string]);
const instruction = (name: string): string => {
  const found = instructions.filter(([verb]) => verb === name);
  assert.equal(found.length, 1, `one ${name} in the Dockerfile`);
  return found[0]![1];
};

Deno.test("docker compose up alone starts the servers; the rest has profiles", () => {
  const byProfile = Object.groupBy(
    Object.entries(services),
    ([, { profiles }]) => profiles?.[0] ?? "none",
  );
  const names = Object.entries(byProfile).map((
    [profile, of],
  ) => [profile, of!.map(([name]) => name)]);
  assert.deepEqual(Object.fromEntries(names), {
    none: ["redis", "replica", "postgres"],
    sink: ["sink"],
    monitoring: ["prometheus", "grafana"],
  });
});

Deno.test("what a service refers to is there: services, volumes, files, and nothing is open to others", async () => {
  const used = new Set<string>();
  for (const [name, service] of Object.entries(services)) {
    assert(service.image ?? service.build, name);
    assert(!service.image?.endsWith(":latest") && service.image?.includes(":") !== false, name);
    for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
      assert(services[other], `${name} depends on ${other}`);
      if (condition === "service_healthy") assert(services[other].healthcheck, other);
    }
    for (const port of service.ports ?? []) assert.match(port, /^127\.0\.0\.1:\d+:\d+$/, name);
    for (const volume of service.volumes ?? []) {
      const [source] = volume.split(":") as [string];
      if (source.startsWith(".")) await there(source);
      else used.add(source);
    }
  }
  assert.deepEqual([...used].sort(), Object.keys(compose.volumes).sort());
});

Deno.test("the sink, the configuration and the servers agree on addresses and passwords", async () => {
  const { REDIS_URL, DATABASE_URL } = services.sink!.environment!;
  const { POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD } = services.postgres!.environment!;
  const config = parse(await read("config/config.yaml"));
  const target = new URL(DATABASE_URL!);
  assert.equal(target.hostname, "postgres");
  assert.deepEqual(
    [target.pathname.slice(1), target.username, target.password],
    [POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD],
  );
  const { database, user, password } = config.postgresql;
  assert.deepEqual([database, user, password], [POSTGRES_DB, POSTGRES_USER, POSTGRES_PASSWORD]);
  assert.equal(new URL(REDIS_URL!).hostname, "redis");
  for (const [name, { port }] of [["redis", config.redis], ["postgres", config.postgresql]]) {
    assert(services[name]!.ports!.includes(`127.0.0.1:${port}:${port}`), name);
  }
});

Deno.test("Prometheus looks for the sink, and Grafana for Prometheus, where they are", async () => {
  const { rule_files, scrape_configs } = parse(await read("ops/prometheus/prometheus.yml"));
  for (const file of rule_files) await there(`ops/prometheus/${file}`);
  const [{ names, port }] = scrape_configs[0].dns_sd_configs;
  assert.deepEqual(names, ["sink"]);
  assert.equal(instruction("EXPOSE"), String(port));
  assert.deepEqual(JSON.parse(instruction("CMD")), ["sink", "--metrics", `0.0.0.0:${port}`]);
  assert(instruction("HEALTHCHECK").includes(`http://127.0.0.1:${port}/healthz`));

  const mounts = new Map(
    services.grafana!.volumes!.map((volume) => volume.split(":") as [string, string])
      .map(([source, target]) => [target, source]),
  );
  const provisioning = mounts.get("/etc/grafana/provisioning")!;
  const { datasources: [datasource] } = parse(
    await read(`${provisioning}/datasources/prometheus.yml`),
  );
  const { hostname, port: asked } = new URL(datasource.url);
  assert(services[hostname]!.ports!.some((port) => port.endsWith(`:${asked}`)), datasource.url);
  const { providers: [provider] } = parse(await read(`${provisioning}/dashboards/writebehind.yml`));
  const folder = mounts.get(provider.options.path)!;
  const home = services.grafana!.environment!.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH!;
  assert.equal(dirname(home), provider.options.path);
  await there(`${folder}/${home.split("/").at(-1)}`);
});

Deno.test("the image is of the pinned Deno, runs as no root, with the rights of the sink's task", async () => {
  const pinned = /deno@([\d.]+)/.exec(await read(".ci/run"))![1];
  assert.equal(instruction("FROM"), `denoland/deno:alpine-${pinned}`);
  assert.equal(instruction("USER"), "deno");
  const task: string = parse(await read("deno.json")).tasks.sink.command;
  const rights = (words: string[]) => words.filter((word) => /^--(allow|v8)/.test(word));
  assert.deepEqual(
    rights(JSON.parse(instruction("ENTRYPOINT"))),
    // Only a SQLite target writes.
    rights(task.split(" ")).filter((word) => !word.startsWith("--allow-write")),
  );
});

Deno.test("what the Dockerfile copies and installs is enough to carry events on", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const app = testFolder("image");
  await Deno.mkdir(app);
  const inApp = async (command: string[], env: Record<string, string> = {}) => {
    const [program, ...args] = command as [string, ...string[]];
    const { success, stderr } = await new Deno.Command(program, {
      args,
      cwd: app,
      env: { ...env, PATH: `${dirname(Deno.execPath())}:${Deno.env.get("PATH")}` },
    }).output();
    assert(success, `${command}: ${new TextDecoder().decode(stderr)}`);
  };
  for (const [verb, rest] of instructions) {
    if (verb === "COPY") {
      const words = rest.split(" ");
      const target = words.pop()!;
      for (const word of words) {
        const to = target.endsWith("/") ? `${target}${word}` : target;
        await inApp(["cp", "-r", join(CHECKOUT, word), to]);
      }
    }
    if (verb === "RUN") await inApp(["sh", "-c", rest]);
  }
  const [program, ...args] = JSON.parse(instruction("ENTRYPOINT")) as string[];
  assert.equal(program, "deno");
  const sink = new Deno.Command(Deno.execPath(), {
    args: [...args, "sink", "--metrics", "0"],
    cwd: app,
    env: environmentOf(config),
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let said = "";
  const reading = (async () => {
    for await (const text of sink.stdout.pipeThrough(new TextDecoderStream())) said += text;
  })();
  try {
    await insertDocument(redis, config, "session", { n: 1 }, "a");
    await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
      what: "the row",
      deadlineMs: 20_000,
    });
    const metrics = /metrics for Prometheus at (\S+)/.exec(said)![1]!;
    assert.equal(await (await fetch(new URL("/healthz", metrics))).text(), "ok\n");
  } finally {
    sink.kill("SIGTERM");
    assert.equal((await sink.status).code, 0);
    await reading;
  }
});
