/** No cluster runs where this is tested: the manifest is held against Kubernetes' schemas and the real program. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { validate as configMap } from "kubernetes-models/_schemas/IoK8sApiCoreV1ConfigMap";
import { validate as service } from "kubernetes-models/_schemas/IoK8sApiCoreV1Service";
import { validate as deployment } from "kubernetes-models/_schemas/IoK8sApiAppsV1Deployment";
import { validate as budget } from "kubernetes-models/_schemas/IoK8sApiPolicyV1PodDisruptionBudget";
import { insertDocument, parseConfig } from "writebehind";
import { CHECKOUT } from "writebehind/config/checkout.ts";
import { parse, parseAllDocuments } from "yaml";
import { rowsOf, testPipeline } from "../support/pipeline.ts";
import { environmentOf } from "../support/processes.ts";
import { testFolder, waitFor } from "../support/servers.ts";

type Labels = Record<string, string>;

interface Probe {
  httpGet: { path: string; port: string };
}

interface Container {
  args: string[];
  env: { name: string; valueFrom: { secretKeyRef: { name: string; key: string } } }[];
  ports: { name: string; containerPort: number }[];
  livenessProbe: Probe;
  readinessProbe: Probe;
  startupProbe: Probe;
  volumeMounts: { name: string; mountPath: string }[];
}

/** A document of the manifest, as far as it is looked at. */
interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; labels: Labels };
  data: Record<string, string>;
  spec: {
    clusterIP: string;
    replicas: number;
    maxUnavailable: number;
    ports: { port: number; targetPort: string }[];
    selector: Labels & { matchLabels: Labels };
    template: {
      metadata: { labels: Labels };
      spec: {
        terminationGracePeriodSeconds: number;
        containers: Container[];
        volumes: { name: string; configMap: { name: string } }[];
        topologySpreadConstraints: { labelSelector: { matchLabels: Labels } }[];
        securityContext: { runAsUser: number; runAsGroup: number };
      };
    };
  };
}

const read = (path: string) => Deno.readTextFile(join(CHECKOUT, path));
const text = await read("ops/kubernetes/sink.yaml");
const documents = parseAllDocuments(text).map((document) => document.toJS() as Manifest);
const of = (kind: string): Manifest => documents.find((document) => document.kind === kind)!;
const pod = of("Deployment").spec.template.spec;
const container = pod.containers[0]!;

type Validate = ((data: unknown) => boolean) & { errors?: unknown };

const SCHEMAS: Record<string, Validate> = {
  "v1 ConfigMap": configMap,
  "v1 Service": service,
  "apps/v1 Deployment": deployment,
  "policy/v1 PodDisruptionBudget": budget,
};

/** What a schema says of a document, and the keys that it does not know: it is let read through a look at what it reads. */
function problemsOf(document: unknown, validate: Validate): string[] {
  const unread = new Set<string>();
  const watched = (value: unknown, path: string): unknown => {
    if (typeof value !== "object" || value === null) return value;
    for (const key of Object.keys(value)) unread.add(`${path}/${key}`);
    const children = new Map<string, unknown>();
    return new Proxy(value, {
      get: (target, key) => {
        const child: unknown = Reflect.get(target, key);
        if (typeof key !== "string" || !Object.hasOwn(target, key) || key === "length") {
          return child;
        }
        unread.delete(`${path}/${key}`);
        if (!children.has(key)) children.set(key, watched(child, `${path}/${key}`));
        return children.get(key);
      },
    });
  };
  const valid = validate(watched(document, ""));
  return [...valid ? [] : [JSON.stringify(validate.errors)], ...unread];
}

Deno.test("each document is as Kubernetes' schemas want it, and has no key that they do not know", () => {
  const kinds = documents.map(({ apiVersion, kind }) => `${apiVersion} ${kind}`);
  assert.deepEqual(kinds.sort(), Object.keys(SCHEMAS).sort());
  for (const document of documents) {
    const schema = SCHEMAS[`${document.apiVersion} ${document.kind}`]!;
    assert.deepEqual(problemsOf(document, schema), [], document.kind);
  }
  const { spec, ...rest } = structuredClone(of("Deployment"));
  const [first] = spec.template.spec.containers;
  Object.assign(first!, { livenesProbe: first!.livenessProbe });
  assert.match(problemsOf({ ...rest, spec }, deployment).join(), /containers\/0\/livenesProbe/);
  Object.assign(spec, { replicas: "3" });
  assert.match(problemsOf({ ...rest, spec }, deployment).join(), /replicas.*integer/);
});

Deno.test("the documents agree with each other, with the image and with Prometheus", async () => {
  const { labels } = of("Deployment").spec.template.metadata;
  const selectors = [
    of("Deployment").spec.selector.matchLabels,
    of("PodDisruptionBudget").spec.selector.matchLabels,
    of("Service").spec.selector,
    ...pod.topologySpreadConstraints.map(({ labelSelector }) => labelSelector.matchLabels),
  ];
  for (const selector of selectors) assert.deepEqual(selector, labels);
  const { replicas } = of("Deployment").spec;
  assert(of("PodDisruptionBudget").spec.maxUnavailable < replicas);
  assert.deepEqual(
    pod.volumes.map(({ name, configMap }) => [name, configMap.name]),
    container.volumeMounts.map(({ name }) => [name, of("ConfigMap").metadata.name]),
  );
  const config = parseConfig(of("ConfigMap").data["config.yaml"]!, "config.yaml");
  assert(Number(config.streams.partitions) >= replicas, "a sink without a partition");

  const [{ name, containerPort }] = container.ports as [Container["ports"][0]];
  const probes = [container.startupProbe, container.livenessProbe, container.readinessProbe];
  for (const { httpGet: { port } } of probes) assert.equal(port, name);
  const [{ port, targetPort }] = of("Service").spec.ports as [Manifest["spec"]["ports"][0]];
  assert.deepEqual([port, targetPort, of("Service").spec.clusterIP], [containerPort, name, "None"]);
  assert.match(await read("Dockerfile"), new RegExp(`^EXPOSE ${containerPort}$`, "m"));
  assert(container.args.includes(`0.0.0.0:${containerPort}`));
  const { scrape_configs: [{ dns_sd_configs: [found] }] } = parse(
    await read("ops/prometheus/prometheus.yml"),
  );
  assert.deepEqual([found.names, found.port], [[of("Service").metadata.name], containerPort]);
  // Each value of the Secret is told where the manifest says how to make it.
  for (const { name, valueFrom: { secretKeyRef } } of container.env) {
    assert.equal(secretKeyRef.key, name);
    assert(text.includes(`kubectl create secret generic ${secretKeyRef.name} `));
    assert(text.includes(`--from-literal=${name}=`));
  }
});

Deno.test("the program takes its arguments, environment and configuration, answers the probes, and stops in time", async () => {
  const config = parseConfig(of("ConfigMap").data["config.yaml"]!, "config.yaml");
  await using pipeline = await testPipeline({ streams: { partitions: config.streams.partitions } });
  const environment = environmentOf(pipeline.config);
  const env = Object.fromEntries(container.env.map(({ name }) => [name, environment[name]!]));
  assert(Object.values(env).every((value) => value !== undefined), "an unknown variable");
  const folder = testFolder("kubernetes");
  await Deno.mkdir(folder, { mode: 0o755 });
  for (const [name, text] of Object.entries(of("ConfigMap").data)) {
    await Deno.writeTextFile(join(folder, name), text);
  }
  const { mountPath } = container.volumeMounts[0]!;
  const args = container.args.map((arg) =>
    arg.replace(mountPath, folder).replace(/^0\.0\.0\.0:\d+$/, "127.0.0.1:0")
  );
  const [, entry] = /^ENTRYPOINT (.*)$/m.exec(await read("Dockerfile"))!;
  const [program, ...given] = JSON.parse(entry!) as string[];
  assert.equal(program, "deno");
  const sink = new Deno.Command(Deno.execPath(), {
    args: [...given, ...args],
    cwd: CHECKOUT,
    clearEnv: true,
    env: { ...env, PATH: dirname(Deno.execPath()), HOME: Deno.env.get("HOME") ?? "/" },
    stdout: "piped",
    stderr: "null",
  }).spawn();
  let said = "";
  const reading = (async () => {
    for await (const part of sink.stdout.pipeThrough(new TextDecoderStream())) said += part;
  })();
  try {
    await insertDocument(pipeline.redis, pipeline.config, "session", { n: 1 }, "a");
    await waitFor(async () => (await rowsOf(pipeline)).size === 1, {
      what: "the row",
      deadlineMs: 60_000,
    });
    const metrics = /metrics for Prometheus at (\S+)/.exec(said)![1]!;
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"] as const) {
      const answer = await fetch(new URL(container[probe].httpGet.path, metrics));
      assert.deepEqual([answer.status, await answer.text()], [200, "ok\n"], probe);
    }
  } finally {
    const asked = Date.now();
    sink.kill("SIGTERM");
    assert.equal((await sink.status).code, 0);
    await reading;
    assert(Date.now() - asked < 1000 * pod.terminationGracePeriodSeconds, "killed before its end");
  }
});
