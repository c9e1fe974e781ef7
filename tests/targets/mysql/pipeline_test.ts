/** The whole way into a MariaDB. */

import { pipelines } from "../conformance/pipeline.ts";
import { targetPipeline } from "../pipelines.ts";
import { databaseOn, sharedMariadb } from "./place.ts";

const server = await sharedMariadb();
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

pipelines("MariaDB", async (overrides) => {
  const database = await databaseOn(server!);
  const target = { ...database.target, name: "local" };
  const pipeline = await targetPipeline(target, overrides);
  return {
    ...pipeline,
    [Symbol.asyncDispose]: async () => {
      await pipeline[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
}, server === null);
