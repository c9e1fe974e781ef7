/** The whole way into a MariaDB. */

import assert from "node:assert/strict";
import mysql from "mysql2/promise";
import { configWith, insertDocument, openTarget, verify } from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { waitFor } from "../../support/servers.ts";
import { pipelines } from "../conformance/pipeline.ts";
import { drain, targetPipeline } from "../pipelines.ts";
import { databaseOn, sharedMariadb } from "./place.ts";

const server = await sharedMariadb();
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

/** @param through a port that leads to the server, instead of its own */
async function pipelineOn(overrides?: Parameters<typeof targetPipeline>[1], through?: number) {
  const database = await databaseOn(server!);
  const to = { ...database.target, name: "local" };
  const pipeline = await targetPipeline({ ...to, port: through ?? to.port }, overrides);
  return {
    ...pipeline,
    to,
    [Symbol.asyncDispose]: async () => {
      await pipeline[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
}

pipelines("MariaDB", (overrides) => pipelineOn(overrides), server === null);

Deno.test({
  name: "MariaDB: a batch whose sink is cut off while the server works on it is whole, or undone",
  ignore: server === null,
}, async () => {
  await using way = await TcpProxy.start(server!);
  await using pipeline = await pipelineOn({}, way.port);
  const { redis, to } = pipeline;
  const config = configWith(pipeline.config, { targets: [to] });
  await using target = await openTarget(config);
  const keys = partitionKeys(config, "session", 0);
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await using sink = pipeline.start(["sink"]);
  await waitFor(async () => (await target.offsets.standing(keys)).events === 1, {
    what: "the first batch",
    deadlineMs: 20_000,
  });
  const { host, port, user, password, database } = to;
  const holder = await mysql.createConnection({ host, port, user, password, database });
  try {
    await holder.query("START TRANSACTION");
    await holder.query("SELECT * FROM writebehind_offset FOR UPDATE");
    await insertDocument(redis, config, "session", { n: 2 }, "b");
    // The server has the whole batch, and waits with its first change.
    await waitFor(async () => {
      const [waiting] = await holder.query(
        `SELECT 1 FROM information_schema.processlist
          WHERE info LIKE 'UPDATE writebehind_offset%' AND id <> CONNECTION_ID()`,
      );
      return (waiting as unknown[]).length > 0;
    }, { what: "the next batch", deadlineMs: 20_000 });
    // It goes on with it, and can answer to none of its statements.
    sink.kill("SIGKILL");
    way.resetAll();
    await sink.status;
    await holder.query("COMMIT");
  } finally {
    await holder.end();
  }
  await drain({ ...pipeline, config, target });
  const { counts } = await verify(redis, target, config, "session");
  assert.deepEqual(counts, { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 });
  assert.equal((await target.offsets.standing(keys)).events, 2);
});
