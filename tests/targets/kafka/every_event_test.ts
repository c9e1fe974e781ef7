/** `every_event`: a record for each event, in the stream's order. */

import assert from "node:assert/strict";
import {
  deleteDocument,
  insertDocument,
  replayDeadLetters,
  updateDocument,
  verify,
} from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { Client } from "writebehind/targets/kafka/client.ts";
import { partitionFor } from "writebehind/targets/kafka/messages.ts";
import { waitFor } from "../../support/servers.ts";
import { batch, claimed, insert, partitionsOf, removal, upsert } from "../conformance/place.ts";
import { drain, targetPipeline } from "../pipelines.ts";
import {
  addressOf,
  limit,
  makePlace,
  messagesIn,
  produce,
  sharedKafka,
  topicsOn,
} from "./place.ts";

const server = await sharedKafka();
const ignore = server === null;
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

/** A Redis in front of a topic of each event. */
async function pipeline() {
  const { target, prefix } = topicsOn(server!, { every_event: true });
  const address = { ...addressOf(target), name: "local" };
  const own = await targetPipeline(address, {
    write_behind: { lease_seconds: 0.5, batch_size: 7 },
  });
  const client = new Client(address);
  const topic = `${prefix}sessions`;
  const { stream } = partitionKeys(own.config, "session", 0);
  return {
    ...own,
    client,
    topic,
    /** the events that are in the stream, as {@linkcode told} tells those of the topic */
    events: async () => {
      const entries = await own.redis.xrange(stream, "-", "+");
      return entries.map(([id, fields]) => {
        const named = new Map<string, string>();
        for (let at = 0; at < fields.length; at += 2) named.set(fields[at]!, fields[at + 1]!);
        return `${named.get("doc_id")} ${named.get("event_type")} ${id}`;
      });
    },
    /** the events that are in the topic, by its partitions */
    told: async () => {
      const { leaders } = await client.knownTopic(topic);
      const told: string[][] = leaders.map(() => []);
      for (const { partition, key, headers } of await messagesIn(client, topic)) {
        told[partition]!.push(`${key} ${headers.get("event_type")} ${headers.get("stream_id")}`);
      }
      return told;
    },
    [Symbol.asyncDispose]: async () => {
      await client.close();
      await own[Symbol.asyncDispose]();
    },
  };
}

/** Events by the partitions of a topic, in their order. */
function byPartition(events: string[], partitions: number): string[][] {
  const spread: string[][] = Array.from({ length: partitions }, () => []);
  for (const event of events) {
    spread[partitionFor(Buffer.from(event.split(" ")[0]!), partitions)]!.push(event);
  }
  return spread;
}

const PLACES = ["coalesced", "applying", "sent apply session", "sent apply session:3", "applied"];

Deno.test({
  name: "Kafka: every event is a record, once and in order, also where sinks are killed",
  ignore,
}, async () => {
  await using own = await pipeline();
  const { redis, config } = own;
  const events: string[] = [];
  let n = 0;
  for (const place of PLACES) {
    for (let round = 0; round < 6; round++) {
      for (const id of ["a", "b", "c", "d", "e"]) {
        if (round === 3) await deleteDocument(redis, config, "session", id);
        else if (round % 4 === 0) {
          await insertDocument(redis, config, "session", { n }, id, { overwrite: true });
        } else await updateDocument(redis, config, "session", id, { n });
        n++;
      }
    }
    // Nothing is trimmed yet but the last one before.
    for (const event of await own.events()) if (!events.includes(event)) events.push(event);
    {
      await using sink = own.start(["sink"], { WRITEBEHIND_FAILPOINT: place });
      await waitFor(() => sink.output().includes(`failpoint ${place.split(":")[0]}`), {
        what: `the failpoint ${place}`,
        deadlineMs: 20_000,
      });
      sink.kill("SIGKILL");
      await sink.status;
    }
    await drain(own);
    assert.equal(events.length, n);
    const told = await own.told();
    assert.deepEqual(told, byPartition(events, told.length), place);
  }
  const { counts, equal } = await verify(redis, own.target, config, "session");
  assert.deepEqual([counts.mismatches, counts.behind, equal], [0, 0, 5]);
});

Deno.test({
  name: "Kafka: of every event, those behind one that is parked wait, and are replayed in order",
  ignore,
}, async () => {
  await using own = await pipeline();
  const { redis, config, target, client, topic } = own;
  await target.migrate("session");
  await limit(client, topic, 20_000);
  const write = (id: string, bytes: number) =>
    insertDocument(redis, config, "session", { text: "x".repeat(bytes) }, id, { overwrite: true });
  for (const bytes of [10, 25_000, 11, 45_000, 12]) {
    await write("a", bytes);
    await write("b", bytes % 1000);
  }
  await deleteDocument(redis, config, "session", "a");
  await write("a", 13);
  const events = await own.events();
  const [first, second, third, ...rest] = events.filter((event) => event.startsWith("a "));
  const of = async (id: string) => (await own.told()).flat().filter((e) => e.startsWith(`${id} `));
  const ofB = events.filter((event) => event.startsWith("b "));

  await drain(own);
  assert.deepEqual([await of("a"), await of("b")], [[first], ofB]);
  const letters = async () => {
    const found = await Array.fromAsync(target.deadLetters!.list("session", "parked"));
    return found.map(({ sqlstate, waiting }) => [sqlstate, waiting]);
  };
  assert.deepEqual(await letters(), [["MESSAGE_TOO_LARGE", 5]]);

  const replay = () => replayDeadLetters(redis, target, config, "session", { all: true });
  const nothing = { applied: 0, gone: 0, superseded: 0, failed: 1 };
  assert.deepEqual([await replay(), await of("a")], [nothing, [first]]);
  await limit(client, topic, 30_000);
  assert.deepEqual([await replay(), await of("a")], [nothing, [first, second, third]]);
  assert.deepEqual(await letters(), [["MESSAGE_TOO_LARGE", 3]]);
  await write("a", 14);
  const last = (await own.events()).at(-1)!;
  await drain(own);
  assert.deepEqual(await of("a"), [first, second, third]);
  await limit(client, topic, 60_000);
  assert.deepEqual(await replay(), { applied: 1, gone: 0, superseded: 0, failed: 0 });
  assert.deepEqual(await of("a"), [first, second, third, ...rest, last]);
  assert.deepEqual([await of("b"), await letters()], [ofB, []]);
  assert.equal((await verify(redis, target, config, "session")).equal, 2);
});

Deno.test({
  name: "Kafka: of every event, one without a payload carries the document as it is now",
  ignore,
}, async () => {
  await using own = await pipeline();
  const { redis, config, client, topic } = own;
  const { stream, documentPrefix } = partitionKeys(config, "session", 0);
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  const other = async (id: string, type: string) => {
    await redis.xadd(stream, "*", "ts", "5", "doc_id", id, "event_type", type);
  };
  await redis.call("JSON.SET", `${documentPrefix}a`, "$", '{"n":2}');
  await other("a", "update");
  await other("gone", "insert");
  await redis.call("JSON.SET", `${documentPrefix}a`, "$", '{"n":3}');
  await other("a", "update");
  await other("gone", "delete");
  const { events } = await drain(own);
  assert.equal(events, 5);
  const texts = (await messagesIn(client, topic)).map(({ key, value }) => `${key} ${value}`);
  assert.deepEqual(texts.sort(), ['a {"n":1}', 'a {"n":3}', 'a {"n":3}', "gone null"]);
});

Deno.test({
  name: "Kafka: of every event, none goes in twice where our offset was lost, nor is one missing",
  ignore,
}, async () => {
  await using place = await makePlace(server!, { every_event: true });
  const first = {
    upserts: [insert("a", "1", 1), upsert("a", "2", 2)],
    removals: [removal("a", 3)],
  };
  {
    await using own = await claimed(place);
    await own.target.batches.apply(
      own.claim,
      batch(9, { ...first, upserts: [...first.upserts, insert("b", "9", 9)] }),
    );
  }
  const key = Buffer.from(partitionsOf(place)[0]!.stream);
  await produce(place.client, [
    { topic: `${place.prefix}writebehind_offset`, key, value: null, headers: [] },
  ]);
  await using own = await claimed(place);
  assert.equal(own.claim.offset, "0-0");
  const upserts = [...first.upserts, insert("a", "4", 4), insert("c", "6", 6)];
  const removals = [...first.removals, removal("a", 5)];
  await own.target.batches.apply(own.claim, batch(9, { upserts, removals }));
  const told = (await messagesIn(place.client, `${place.prefix}sessions`))
    .map(({ key, value }) => `${key} ${value}`);
  const of = (id: string) => told.filter((text) => text.startsWith(`${id} `));
  assert.deepEqual(of("a"), ["a 1", "a 2", "a null", "a 4", "a null"]);
  assert.deepEqual([of("b"), of("c")], [["b 9"], ["c 6"]]);
});
