/** The whole way into a Kafka. */

import { pipelines } from "../conformance/pipeline.ts";
import { targetPipeline } from "../pipelines.ts";
import { addressOf, sharedKafka, topicsOn } from "./place.ts";

const server = await sharedKafka();
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

pipelines(
  "Kafka",
  (overrides) =>
    targetPipeline({ ...addressOf(topicsOn(server!).target), name: "local" }, {
      ...overrides,
      // A broker does not notice that a process was killed: its lease has to end.
      write_behind: { ...overrides?.write_behind, lease_seconds: 0.5 },
    }),
  server === null,
);
