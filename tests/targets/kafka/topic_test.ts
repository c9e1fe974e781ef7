/** What stands in the topics, and what is left of the suite's cases that have no meaning for them. */

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { compatibilityPartitioner, murmur2 as theirs } from "@platformatic/kafka";
import { versionOf } from "writebehind";
import { murmur2, partitionFor } from "writebehind/targets/kafka/messages.ts";
import { ParkedChangedError } from "writebehind/targets";
import {
  batch,
  BEGIN,
  claimed,
  insert,
  LEASE_SECONDS,
  openWhole,
  partitionsOf,
  removal,
  streamId,
  textsOf,
  upsert,
} from "../conformance/place.ts";
import { startHolder } from "../conformance/ownership.ts";
import { waitFor } from "../../support/servers.ts";
import { makePlace, messagesIn, produce, sharedKafka } from "./place.ts";

const server = await sharedKafka();
const ignore = server === null;
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

Deno.test("Kafka: partitions are those that Java's default partitioner takes", () => {
  // From the tests of Kafka's own clients.
  const known: Record<string, number> = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
  };
  for (const [key, hash] of Object.entries(known)) assert.equal(murmur2(Buffer.from(key)), hash);
  for (let length = 0; length < 70; length++) {
    const key = Buffer.from(crypto.getRandomValues(new Uint8Array(length)));
    assert.equal(murmur2(key), theirs(key), key.toString("hex"));
    assert.equal(partitionFor(key, 12), compatibilityPartitioner(undefined!, key) % 12);
  }
});

Deno.test({
  name: "Kafka: a message has the payload's bytes, or none, and says what happened",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  await using own = await claimed(place);
  const { target, claim } = own;
  const odd = ' { "b" : 1.0, "a" : 12345678901234567890, "a" : -0 } ';
  await target.batches.apply(
    claim,
    batch(3, { upserts: [insert("new", odd, 1), upsert("ä", "{}", 3, { seq: 7 })] }),
  );
  await target.batches.apply(claim, batch(4, { removals: [removal("new", 4)] }));
  const topic = place.client.knownTopic(`${target.describe().address.match(/test_\d+\./)}sessions`);
  const { name, leaders } = await topic;
  const messages = await messagesIn(place.client, name);
  const told = messages.map(({ key, value, headers, partition }) => {
    assert.equal(partition, partitionFor(key, leaders.length));
    const texts = Object.fromEntries([...headers].map(([name, text]) => [name, String(text)]));
    return [String(key), value && String(value), texts];
  });
  const at = (ms: number, seq = 0) => ({
    stream_id: `${BEGIN + ms}-${seq}`,
    version: String(versionOf(`${BEGIN + ms}-${seq}`)),
  });
  const expected = [
    ["new", odd, { event_type: "insert", ts: String(BEGIN + 1), ...at(1) }],
    ["new", null, { event_type: "delete", ...at(4) }],
    ["ä", "{}", { event_type: "update", ts: String(BEGIN + 3), ...at(3, 7) }],
  ];
  const byKey = (a: unknown[], b: unknown[]) => String(a[0]).localeCompare(String(b[0]));
  assert.deepEqual(told.toSorted(byKey), expected.toSorted(byKey));
  assert.deepEqual(await textsOf(target, place, ["new", "ä"]), [null, "{}"]);
});

Deno.test({ name: "Kafka: a batch of many documents, and of large ones", ignore }, async () => {
  await using place = await makePlace(server!);
  await using own = await claimed(place);
  const { target, claim } = own;
  const upserts = Array.from({ length: 5000 }, (_, n) => insert(`d${n}`, `{"n":${n}}`, 1));
  const large = `{"text":"${"x".repeat(3 << 20)}"}`;
  await target.batches.apply(claim, batch(1, { upserts: [...upserts, insert("l", large, 1)] }));
  assert.deepEqual(await textsOf(target, place, ["d0", "d4999", "l"]), [
    '{"n":0}',
    '{"n":4999}',
    large,
  ]);
  assert.equal((await Array.fromAsync(target.rows.ids("session"))).flat().length, 5001);
});

Deno.test({
  name: "Kafka: abandoned, a batch fails at once; the next claim says whether it is in",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  await using own = await claimed(place);
  const { target, keys } = own;
  let { claim } = own;
  const outcomes = { in: 0, out: 0 };
  // Some answers come late: abandoned later each time, a batch is in sooner or later.
  for (let n = 1; n < 200 && (outcomes.in === 0 || outcomes.out === 0); n++) {
    const { offset } = claim;
    const id = `d${n}`;
    const applying = target.batches.apply(claim, batch(n, { upserts: [insert(id, "1", n)] }))
      .then(() => null, (error) => error);
    await delay(n % 25);
    // Sent, and then no answer is heard for as long as the broker needs to commit.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 15);
    const reason = new Error("no answer");
    target.ownership.abandon(claim, reason);
    const error = await applying;
    claim = (await target.ownership.claim(keys, "a", LEASE_SECONDS))!;
    const isIn = claim.offset === streamId(n);
    assert(isIn || claim.offset === offset, claim.offset);
    if (error === null) assert(isIn);
    else {
      assert.equal(error, reason);
      outcomes[isIn ? "in" : "out"]++;
    }
    assert.deepEqual(await textsOf(target, place, [id]), [isIn ? "1" : null]);
  }
  assert(outcomes.in > 0 && outcomes.out > 0, JSON.stringify(outcomes));
});

Deno.test({
  name: "Kafka: the lease ends when the broker has heard nothing of its process for so long",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  await using target = await openWhole(place);
  const [keys] = partitionsOf(place);
  const leaseSeconds = 1;
  const holder = await startHolder(place, leaseSeconds);
  assert.equal(await target.ownership.claim(keys!, "other", leaseSeconds), null);
  await delay(2 * leaseSeconds * 1000);
  assert.equal((await target.offsets.standing(keys!)).live, true, "it is renewed");
  await holder.kill();
  const claim = await waitFor(() => target.ownership.claim(keys!, "other", leaseSeconds), {
    what: "the lease to end",
    deadlineMs: 3 * leaseSeconds * 1000,
  });
  assert.equal(claim.offset, streamId(1));
  await target.batches.apply(claim, batch(2, { upserts: [insert("b", "2", 2)] }));
  assert.deepEqual(await textsOf(target, place, ["a", "b"]), ["1", "2"]);
});

Deno.test({
  name: "Kafka: where the topic has more than our offset tells of, nothing older goes in",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  const topic = await (async () => {
    await using own = await claimed(place);
    const upserts = [insert("a", "9", 9), insert("b", "9", 9)];
    await own.target.batches.apply(own.claim, batch(9, { upserts }));
    return `${own.target.describe().address.match(/test_\d+\./)}`;
  })();
  // Our state is gone, and what stands in the entity's topic is not.
  const key = Buffer.from(partitionsOf(place)[0]!.stream);
  await produce(place.client, [
    { topic: `${topic}writebehind_offset`, key, value: null, headers: [] },
  ]);
  await using own = await claimed(place);
  assert.equal(own.claim.offset, "0-0");
  const upserts = [upsert("a", "1", 1), upsert("b", "10", 10), upsert("c", "1", 1)];
  await own.target.batches.apply(own.claim, batch(10, { upserts }));
  assert.deepEqual(await textsOf(own.target, place, ["a", "b", "c"]), ["9", "10", "1"]);
});

Deno.test({
  name: "Kafka: a batch that a replay fenced off goes in all the same, once",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  await using own = await claimed(place);
  const { target, claim, keys } = own;
  await using other = await openWhole(place);
  for (let n = 1; n <= 5; n++) {
    const applying = target.batches.apply(
      claim,
      batch(n, { upserts: [upsert("a", String(n), n)] }),
    );
    await other.deadLetters.hold(keys, () => Promise.resolve(false));
    await applying;
  }
  const topic = `${target.describe().address.match(/test_\d+\./)}sessions`;
  assert.deepEqual(
    (await messagesIn(place.client, topic)).map(({ value }) => String(value)),
    ["1", "2", "3", "4", "5"],
  );
  await other.deadLetters.hold(keys, () => Promise.resolve(true));
  await assert.rejects(target.batches.apply(claim, batch(6)), ParkedChangedError);
});
