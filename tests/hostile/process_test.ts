/** A sink's process: what strangers send to its metrics, and the signals that it gets. */

import assert from "node:assert/strict";
import { connect } from "node:net";
import { insertDocument } from "writebehind";
import { freePort } from "writebehind/dev/servers/processes.ts";
import { assertEqual, type Pipeline, rowsOf, testPipeline } from "../support/pipeline.ts";
import { environmentOf, startTask } from "../support/processes.ts";
import { waitFor } from "../support/servers.ts";

/** Sends bytes, and waits for what comes or for a while. */
function send(port: number, bytes: string | Uint8Array, waitMs = 300): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port });
    let answer = "";
    const end = () => {
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(end, waitMs);
    socket.on("data", (data) => answer += data.toString("latin1"));
    socket.on("error", () => {});
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(answer);
    });
    socket.write(bytes);
  });
}
const http = (line: string, ...headers: string[]) =>
  [line, "Host: x", ...headers, "Connection: close", "", ""].join("\r\n");

const REQUESTS: Record<string, string | Uint8Array> = {
  nothing: "",
  "half a line": "GET /met",
  "no host": "GET /metrics HTTP/1.1\r\n\r\n",
  "HTTP/1.0": "GET /metrics HTTP/1.0\r\n\r\n",
  "HTTP/0.9": "GET /metrics\r\n\r\n",
  "HTTP/9.9": http("GET /metrics HTTP/9.9"),
  "HTTP/2 at once": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
  "an upgrade": http("GET /metrics HTTP/1.1", "Upgrade: h2c", "HTTP2-Settings: AAA"),
  TLS: new Uint8Array([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
  "random bytes": crypto.getRandomValues(new Uint8Array(10_000)),
  "NUL bytes": new Uint8Array(10_000),
  "Redis's protocol": "*1\r\n$4\r\nPING\r\n",
  ...Object.fromEntries(
    [
      "POST",
      "PUT",
      "DELETE",
      "HEAD",
      "OPTIONS",
      "TRACE",
      "CONNECT",
      "PATCH",
      "get",
      "X".repeat(100),
    ]
      .map((method) => [method.slice(0, 10), http(`${method} /metrics HTTP/1.1`)]),
  ),
  ...Object.fromEntries(
    [
      "*",
      "//",
      "/../../etc/passwd",
      "/%00",
      "/%zz",
      "/metrics?x=1",
      "/metrics/",
      "/metrics#a",
      "http://other/metrics",
      "http://[::1",
      "/\u00e9",
      "/metrics%0d%0aX: y",
      `/${"a".repeat(100_000)}`,
    ].map((path) => [`the path ${path.slice(0, 30)}`, http(`GET ${path} HTTP/1.1`)]),
  ),
  "1 MB of headers": http("GET /metrics HTTP/1.1", `X: ${"a".repeat(1_000_000)}`),
  "10,000 headers": http(
    "GET /metrics HTTP/1.1",
    ...Array.from({ length: 10_000 }, (_, n) => `X${n}: y`),
  ),
  "two lengths": http("POST /metrics HTTP/1.1", "Content-Length: 1", "Content-Length: 2"),
  "a length and chunks": http(
    "POST /metrics HTTP/1.1",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
  ),
  "a negative length": http("POST /metrics HTTP/1.1", "Content-Length: -1"),
  "a length without end": http("POST /metrics HTTP/1.1", "Content-Length: 99999999999999999999"),
  "bad chunks": http("POST /metrics HTTP/1.1", "Transfer-Encoding: chunked") + "zz\r\n",
  "odd hosts": "GET /metrics HTTP/1.1\r\nHost: a b\r\nHost: c\r\n\r\n",
  "no encoding is accepted": http("GET /metrics HTTP/1.1", "Accept-Encoding: x;q=2, *;q=0"),
  "odd Accept": http("GET /metrics HTTP/1.1", "Accept: ,;q=,/*"),
  "a range": http("GET /metrics HTTP/1.1", "Range: bytes=99999-1"),
  "200 requests on one connection": "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200),
};

async function sinkWith(pipeline: Pipeline) {
  const port = freePort();
  const sink = startTask(["sink", "--metrics", String(port)], environmentOf(pipeline.config));
  await applied(pipeline, "first");
  return { sink, port };
}

/** A document goes through. */
async function applied(pipeline: Pipeline, id: string): Promise<void> {
  const overwrite = { overwrite: true };
  await insertDocument(pipeline.redis, pipeline.config, "session", { id }, id, overwrite);
  await waitFor(async () => (await rowsOf(pipeline)).has(id), {
    what: `the row ${id}`,
    deadlineMs: 20_000,
  });
}

Deno.test("whatever strangers send to the metrics, the sink goes on and answers", async (t) => {
  await using pipeline = await testPipeline();
  const { sink, port } = await sinkWith(pipeline);
  await using _ = sink;
  for (const [name, bytes] of Object.entries(REQUESTS)) {
    await t.step(name, async () => {
      const answer = await send(port, bytes);
      assert(!/ {4}at |file:\/\/|s3cret|password/.test(answer), answer.slice(0, 500));
      const response = await fetch(`http://127.0.0.1:${port}/metrics`);
      assert.equal(response.status, 200);
      await response.body?.cancel();
    });
  }
  await t.step("500 connections that say nothing", async () => {
    const held = Array.from({ length: 500 }, () => send(port, "GET /", 3000));
    const response = await fetch(`http://127.0.0.1:${port}/healthz`);
    await response.body?.cancel();
    assert(response.status < 600);
    await applied(pipeline, "beside them");
    await Promise.all(held);
  });
  await applied(pipeline, "behind");
  await assertEqual(pipeline);
  assert(!/ {4}at /.test(sink.output()), sink.output());
  // Nor does a connection that is held hold up the end.
  const held = [send(port, "GET /met", 20_000), send(port, http("GET /metrics HTTP/1.1"), 20_000)];
  const began = Date.now();
  sink.kill("SIGTERM");
  assert.equal((await sink.status).code, 0, sink.output());
  assert(Date.now() - began < 10_000, "it waited for a connection");
  await Promise.all(held);
});

/** What a process may get, and whether the sink stops in order. */
const SIGNALS: Partial<Record<Deno.Signal, "stops" | "goes on" | "ends">> = {
  SIGTERM: "stops",
  SIGINT: "stops",
  SIGHUP: "stops",
  SIGPIPE: "goes on",
  SIGWINCH: "goes on",
  SIGCHLD: "goes on",
  SIGURG: "goes on",
  SIGCONT: "goes on",
  SIGQUIT: "ends",
  SIGUSR2: "ends",
  SIGALRM: "ends",
  SIGABRT: "ends",
};

Deno.test("signals: a sink stops in order, goes on, or is replaced at once", async (t) => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: 30 } });
  for (const [signal, does] of Object.entries(SIGNALS)) {
    await t.step(`${signal}: ${does}`, async () => {
      await pipeline.pool.query("DELETE FROM sessions; TRUNCATE writebehind_offset");
      await pipeline.redis.flushall();
      const { sink } = await sinkWith(pipeline);
      await using _ = sink;
      sink.kill(signal as Deno.Signal);
      if (does === "goes on") await applied(pipeline, "behind");
      else {
        const { code } = await sink.status;
        if (does === "stops") assert([0, 129, 130].includes(code), `${code}: ${sink.output()}`);
        const began = Date.now();
        const { sink: next } = await sinkWith({ ...pipeline });
        await using _ = next;
        await applied(pipeline, "behind");
        assert(Date.now() - began < 15_000, "it has waited for the lease");
      }
      await assertEqual(pipeline);
    });
  }
});
