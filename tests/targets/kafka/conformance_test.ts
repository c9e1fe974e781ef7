/** Kafka keeps the promises of the port, as far as they have a meaning for a topic. */

import { conformance } from "../conformance/mod.ts";
import { MEANINGLESS } from "./meaningless.ts";
import { makePlace, sharedKafka } from "./place.ts";

const server = await sharedKafka();
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

conformance("Kafka", () => makePlace(server!), server === null, MEANINGLESS);
