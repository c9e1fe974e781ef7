/** A broker whose disk is full, and topics that are not as they should be. */

import assert from "node:assert/strict";
import { caughtUp, consumePeriodically, insertDocument, updateDocument, verify } from "writebehind";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { Client } from "writebehind/targets/kafka/client.ts";
import { testKafka } from "../../support/kafka.ts";
import { isInstalled } from "../../support/programs.ts";
import { waitFor } from "../../support/servers.ts";
import { LEASE_SECONDS, openWhole, partitionsOf } from "../conformance/place.ts";
import { targetPipeline } from "../pipelines.ts";
import { addressOf, alter, makePlace, messagesIn, sharedKafka, topicsOn } from "./place.ts";

const server = await sharedKafka();
const ignore = server === null;
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

/** No file of the broker may have more bytes: to it, that is a full disk. Its indexes have a little less at once. */
const FILE_BYTES = 12_000_000;

Deno.test({
  name: "Kafka: a broker whose disk is full loses nothing, and goes on when there is room",
  ignore: ignore || !isInstalled("prlimit"),
}, async () => {
  await using broker = await testKafka({}, { first: ["prlimit", `--fsize=${FILE_BYTES}`] });
  const { target, prefix } = topicsOn(broker, { every_event: true });
  const address = { ...addressOf(target), name: "local" };
  await using own = await targetPipeline(address, {
    write_behind: { lease_seconds: 1, batch_size: 5 },
  });
  const { redis, config } = own;
  await using sink = own.start(["sink"]);
  const text = "x".repeat(2 ** 20);
  let events = 0;
  const write = async (id: string) => {
    await insertDocument(redis, config, "session", { events: ++events, text }, id, {
      overwrite: true,
    });
  };
  const told = /\[WRN\] .*transient\): Kafka: KAFKA_STORAGE_ERROR: .*; a broker's disk is full .*/;
  for (let n = 0; n < 45; n++) await write(`d${n % 20}`);
  await waitFor(() => told.test(sink.output()), {
    what: "the sink to say that the disk is full",
    deadlineMs: 20_000,
  });
  await updateDocument(redis, config, "session", "d0", { meanwhile: true });
  events++;
  await broker.kill(); // it has stopped by itself, or is about to
  await broker.again();
  await caughtUp(redis, own.target, config, "session", { deadlineMs: 60_000 });
  const { counts, equal } = await verify(redis, own.target, config, "session");
  assert.deepEqual([counts, equal], [
    { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 },
    20,
  ]);
  const standing = await own.target.offsets.standing(partitionKeys(config, "session", 0));
  assert.deepEqual([standing.events, standing.parked], [events, 0]);
  await using client = closing(new Client(address));
  const messages = await messagesIn(client, `${prefix}sessions`);
  const ids = new Set(messages.map(({ headers }) => String(headers.get("stream_id"))));
  assert.deepEqual([messages.length, ids.size], [events, events], "each event once");
});

const closing = (client: Client) =>
  Object.assign(client, { [Symbol.asyncDispose]: () => client.close() });

Deno.test({
  name: "Kafka: a topic that does not keep what it must is refused, with what to set",
  ignore,
}, async (t) => {
  const week = { "cleanup.policy": "delete", "retention.ms": "604800000" };
  const cases: [topic: string, settings: Record<string, string>, message: RegExp][] = [
    [
      "sessions",
      week,
      /^the topic \S+sessions would lose what it must keep \(cleanup.policy=delete, retention.ms=604800000\): set its cleanup.policy to compact \(kafka-configs --alter\)$/,
    ],
    [
      "sessions",
      { "cleanup.policy": "compact,delete", "retention.bytes": "9" },
      /retention.bytes=9/,
    ],
    [
      "sessions",
      { "min.compaction.lag.ms": "0" },
      /^the topic \S+ may lose events before they are/,
    ],
    ["writebehind_offset", week, /^the topic \S+writebehind_offset would lose/],
    ["writebehind_dead_letter", week, /^the topic \S+writebehind_dead_letter would lose/],
    [
      "writebehind_dead_letter",
      { "max.message.bytes": "1048588" },
      /^the topic \S+ could not take .* set its max.message.bytes to 8454144, or documents.max_bytes /,
    ],
  ];
  for (const [topic, settings, message] of cases) {
    await t.step(`${topic}: ${Object.keys(settings).join()}`, async () => {
      await using place = await makePlace(server!, { every_event: true });
      await using target = await openWhole(place);
      await target.migrate("session");
      await alter(place.client, `${place.prefix}${topic}`, settings);
      const [keys] = partitionsOf(place);
      const claim = () => target.ownership.claim(keys!, "a", LEASE_SECONDS);
      const error = await claim().then(() => null, (error: Error) => error);
      assert.match(error!.message, message);
      assert.equal(target.kindOf(error), "configuration");
    });
  }
  await t.step("one that is set so under a sink", async () => {
    await using own = await targetPipeline({
      ...addressOf(topicsOn(server!).target),
      name: "local",
    }, { write_behind: { lease_seconds: 1 } });
    const { redis, config, target } = own;
    const documents = target.describe().address.match(/test_\d+\./)![0] + "sessions";
    await using client = closing(new Client(addressOf(topicsOn(server!).target)));
    await insertDocument(redis, config, "session", {}, "a");
    await using sink = consumePeriodically(redis, target, config, "session");
    await caughtUp(redis, target, config, "session", { deadlineMs: 60_000 });
    await alter(client, documents, week);
    const told = () => sink.status.partitions[0]!.lastError ?? "";
    await waitFor(() => /^the topic \S+sessions would lose what it must keep/.test(told()), {
      what: "the sink to say so",
      deadlineMs: 60_000,
    });
    await insertDocument(redis, config, "session", {}, "b");
    await alter(client, documents, { "cleanup.policy": "compact" });
    await caughtUp(redis, target, config, "session", { deadlineMs: 60_000 });
    assert.equal((await verify(redis, target, config, "session")).equal, 2);
  });
  await t.step("one that keeps all for good is fine", async () => {
    await using place = await makePlace(server!, { every_event: true });
    await using target = await openWhole(place);
    await target.migrate("session");
    const forGood = { "cleanup.policy": "delete", "retention.ms": "-1" };
    await alter(place.client, `${place.prefix}sessions`, forGood);
    const [keys] = partitionsOf(place);
    assert(await target.ownership.claim(keys!, "a", LEASE_SECONDS));
  });
});
