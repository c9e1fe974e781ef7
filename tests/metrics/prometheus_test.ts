import assert from "node:assert/strict";
import { insertDocument, RedisWriteBehind, Sampler } from "writebehind";
import { serveMetrics } from "writebehind/metrics/prometheus.ts";
import { testPipeline } from "../support/pipeline.ts";

Deno.test("Prometheus scrapes counters, lag and freshness", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await using sampler = new Sampler(redis, config);
  await using server = serveMetrics(redis, sampler, 0);
  const scrape = async () => {
    const response = await fetch(server.url);
    assert.equal(response.status, 200);
    return await response.text();
  };
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await insertDocument(redis, config, "session", { n: 1 }, "b");
  const before = await scrape();
  assert.match(before, /^writebehind_lag_events 2$/m);
  assert.match(before, /^writebehind_events_total\{side="redis",outcome="success"\} 2$/m);
  assert.match(before, /^writebehind_events_total\{side="postgres",outcome="success"\} 0$/m);
  {
    await using sink = new RedisWriteBehind(redis, pool, config, "session");
    await sink.drain();
  }
  const after = await scrape();
  assert.match(after, /^writebehind_lag_events 0$/m);
  assert.match(after, /^writebehind_events_total\{side="postgres",outcome="success"\} 2$/m);
  assert.match(after, /^writebehind_freshness_seconds\{quantile="0.99"\} [\d.e-]+$/m);
  for (const line of after.split("\n").filter((line) => line && !line.startsWith("#"))) {
    assert.match(line, /^writebehind_\w+(\{.*\})? [\d.e+-]+$/);
  }
});

Deno.test("a port that is taken is refused in one line", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  await using sampler = new Sampler(redis, config);
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  assert.throws(() => serveMetrics(redis, sampler, port), {
    name: "ConfigError",
    message:
      `Cannot serve metrics at 127.0.0.1:${port}: another process has taken it; choose another port by --metrics`,
  });
});
