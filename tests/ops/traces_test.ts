import assert from "node:assert/strict";
import { insertDocument } from "writebehind";
import { environmentOf, startTask } from "../support/processes.ts";
import { offsetOf, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** A span as OTLP's JSON has it. */
interface Span {
  name: string;
  kind: number;
  status: { code?: number; message?: string };
  attributes: { key: string; value: { stringValue?: string; doubleValue?: number } }[];
}

/** What an exporter sends at a time. */
interface Export {
  resourceSpans: { scopeSpans: { scope: { name: string }; spans: Span[] }[] }[];
}

const PRODUCER = 4;
const CONSUMER = 5;
const ERROR = 2;

/** A collector of OpenTelemetry on a port of its own. It keeps the spans of this project. */
function collector(): AsyncDisposable & { endpoint: string; spans: Span[] } {
  const spans: Span[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { resourceSpans = [] }: Partial<Export> = await request.json();
    for (const { scopeSpans } of resourceSpans) {
      for (const { scope, spans: of } of scopeSpans) {
        if (scope.name === "writebehind") spans.push(...of);
      }
    }
    return Response.json({});
  });
  return {
    endpoint: `http://127.0.0.1:${server.addr.port}`,
    spans,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

const valueOf = ({ attributes }: Span, name: string) => {
  const value = attributes.find(({ key }) => key === name)?.value;
  return value?.stringValue ?? value?.doubleValue;
};

Deno.test("Deno's exporter sends a span of each write and each batch to a collector", async () => {
  await using pipeline = await testPipeline();
  const { redis, pool, config } = pipeline;
  await using collected = collector();
  const env = {
    ...environmentOf(config),
    OTEL_DENO: "true",
    OTEL_EXPORTER_OTLP_ENDPOINT: collected.endpoint,
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
    OTEL_BSP_SCHEDULE_DELAY: "100",
  };
  const named = (name: string) => collected.spans.filter((span) => span.name === name);
  await pool.query(`
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN RAISE EXCEPTION 'no room at postgres://a:secret@b' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse();`);
  await insertDocument(redis, config, "session", { n: 1 }, "first");
  await using sink = startTask(["sink"], env);
  await waitFor(() => named("apply session").some(({ status }) => status.code === ERROR), {
    what: "the span of a batch that failed",
    deadlineMs: 20_000,
  }).catch((error) => {
    throw new Error(sink.output(), { cause: error });
  });
  await pool.query("DROP TRIGGER refuse ON sessions");
  await using traffic = startTask(["traffic", "--records", "20"], env);
  assert.equal((await traffic.status).code, 0, traffic.output());
  const last = async () => {
    const [entry] = await redis.xrevrange("stream:session", "+", "-", "COUNT", 1);
    return entry![0];
  };
  const applied = () => named("apply session").filter(({ status }) => status.code !== ERROR);
  await waitFor(async () => {
    const id = await last();
    return await offsetOf(pool, "stream:session") === id &&
      applied().some((span) => valueOf(span, "writebehind.offset") === id);
  }, { what: "the span of the last batch", deadlineMs: 20_000 });

  const inserts = named("insert session");
  assert(inserts.length > 0, "inserts");
  for (const span of inserts) {
    assert.equal(span.kind, PRODUCER);
    assert.equal(valueOf(span, "writebehind.entity"), "session");
    assert.match(String(valueOf(span, "messaging.message.id")), /^\d+-\d+$/);
  }
  for (const span of applied()) {
    assert.equal(span.kind, CONSUMER);
    assert.equal(valueOf(span, "messaging.destination.name"), "stream:session");
    assert.equal(valueOf(span, "writebehind.partition"), 0);
    assert.equal(valueOf(span, "writebehind.target"), "postgresql");
  }
  const counted = (name: string) =>
    applied().reduce((sum, span) => sum + Number(valueOf(span, name)), 0);
  const { rows: [row] } = await pool.query("SELECT events FROM writebehind_offset");
  assert.equal(counted("messaging.batch.message_count"), Number(row.events));
  const [failed] = named("apply session").filter(({ status }) => status.code === ERROR);
  assert.match(failed!.status.message!, /no room at postgres:\/\/a:\*\*\*@b/);
  assert.equal(valueOf(failed!, "writebehind.offset"), undefined);
});
