/**
 * Spans by OpenTelemetry: of a write, and of a batch. Where nobody has registered a provider, its API is not even loaded.
 * @module
 */

import type { Attributes, Tracer } from "@opentelemetry/api";
import { asError, reasonOf } from "./errors.ts";
import { logWarning, redacted } from "./log.ts";

/** What a span says. The texts are made only where somebody records it. */
export interface SpanOf<Result> {
  /** `producer`: an event is sent; `consumer`: events are received */
  kind: "producer" | "consumer";
  /** what is known before the work */
  before: () => Attributes;
  /** what is known once it went well */
  after: (result: Result) => Attributes;
}

/** Where every copy of the API's first version finds what was registered. */
const REGISTERED = Symbol.for("opentelemetry.js.api.1");

let api: typeof import("@opentelemetry/api") | undefined;
let tracer: Tracer | undefined;
let loading: Promise<void> | undefined;

function isRegistered(): boolean {
  const registered = (globalThis as { [REGISTERED]?: { trace?: unknown } })[REGISTERED];
  return registered?.trace !== undefined;
}

/** Never rejects: no call fails since nobody can trace it. */
function load(): Promise<void> {
  return loading ??= import("@opentelemetry/api").then((loaded) => {
    api = loaded;
    tracer = loaded.trace.getTracer("writebehind");
  }).catch((error) => logWarning("tracing", "there are no spans: {error}", error));
}

// With OTEL_DENO, or an SDK that is loaded first, not even the first span is missed.
if (isRegistered()) await load();

/** Does some work in a span, under the one that is active. */
export function traced<Result>(
  name: string,
  { kind, before, after }: SpanOf<Result>,
  work: () => Promise<Result>,
): Promise<Result> {
  if (!isRegistered()) return work();
  if (api === undefined || tracer === undefined) {
    // Waiting here could let a later call pass this one.
    void load();
    return work();
  }
  const { context, SpanKind, SpanStatusCode, trace } = api;
  const span = tracer.startSpan(name, {
    kind: kind === "producer" ? SpanKind.PRODUCER : SpanKind.CONSUMER,
  });
  if (!span.isRecording()) return work();
  span.setAttributes(before());
  return context.with(trace.setSpan(context.active(), span), async () => {
    try {
      const result = await work();
      span.setAttributes(after(result));
      return result;
    } catch (error) {
      span.setAttribute("error.type", asError(error).name);
      span.setStatus({ code: SpanStatusCode.ERROR, message: redacted(reasonOf(error)) });
      throw error;
    } finally {
      span.end();
    }
  });
}
