/** What brokers, and other producers, may do to a sink, or refuse it. */

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import {
  caughtUp,
  type Config,
  configWith,
  consumePeriodically,
  insertDocument,
  openTarget,
  parseConfig,
  replayDeadLetters,
  verify,
} from "writebehind";
import { OwnershipLostError } from "writebehind/targets";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { Client } from "writebehind/targets/kafka/client.ts";
import { FencedError } from "writebehind/targets/kafka/errors.ts";
import { Producer } from "writebehind/targets/kafka/producer.ts";
import { Author } from "../../faults/author.ts";
import { withSeed } from "../../faults/seed.ts";
import { CERTIFICATES } from "../../support/certificates.ts";
import { type KafkaBroker, OLD_KAFKA_VERSION, testKafka } from "../../support/kafka.ts";
import { testFolder, waitFor } from "../../support/servers.ts";
import {
  batch,
  claimed,
  insert,
  openWhole,
  partitionsOf,
  streamId,
  textsOf,
} from "../conformance/place.ts";
import { drain, type TargetPipeline, targetPipeline } from "../pipelines.ts";
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

const LEASE = { write_behind: { lease_seconds: 1, batch_size: 50 } };

/** A Redis in front of topics of its own, and a client beside the target. */
async function pipeline(
  broker: KafkaBroker,
): Promise<TargetPipeline & { client: Client; topic: string }> {
  const { target, prefix } = topicsOn(broker);
  const address = { ...addressOf(target), name: "local" };
  const own = await targetPipeline(address, LEASE);
  const client = new Client(address);
  return {
    ...own,
    client,
    topic: `${prefix}sessions`,
    [Symbol.asyncDispose]: async () => {
      await client.close();
      await own[Symbol.asyncDispose]();
    },
  };
}

/** The rows are the documents, and no event stands in the topic twice. */
async function assertExact(
  { redis, target, config, client, topic }: Awaited<ReturnType<typeof pipeline>>,
  author: Author,
) {
  const report = await verify(redis, target, config, "session");
  assert.deepEqual(report.counts, { mismatches: 0, behind: 0, parked: 0, notForwarded: 0 });
  assert.equal(report.rows, author.documents().size);
  const { events } = await target.offsets.standing(partitionKeys(config, "session", 0));
  assert.equal(events, author.events, "each event is counted once");
  const messages = await messagesIn(client, topic);
  const places = messages.map(({ key, headers }) => `${key} ${headers.get("stream_id")}`);
  assert.equal(new Set(places).size, places.length, "each event is there once");
  const versions = new Map<string, bigint>();
  for (const { key, headers } of messages) {
    const version = BigInt(String(headers.get("version")));
    assert(version > (versions.get(String(key)) ?? 0n), `${key} went back`);
    versions.set(String(key), version);
  }
}

Deno.test({
  name:
    "Kafka: a broker that is killed in mid-transaction, and under traffic, loses nothing, and has nothing twice",
  ignore,
}, () =>
  withSeed(async (random) => {
    await using broker = await testKafka();
    await using own = await pipeline(broker);
    // In the middle of a transaction, as a sink would write it.
    await own.target.migrate("session");
    const { stream } = partitionKeys(own.config, "session", 0);
    const offsets = own.topic.replace("sessions", "writebehind_offset");
    const halfway = new Producer(own.client, `${offsets}.${stream}`);
    await halfway.begin();
    const message = { key: Buffer.from("halfway"), value: Buffer.from("{}"), headers: [] };
    await halfway.send([{ topic: own.topic, ...message }], () => {});
    await broker.kill();
    await broker.again();
    const author = new Author(own.redis, own.config, { random, documents: 60, paceMs: 1 });
    await using sink = consumePeriodically(own.redis, own.target, own.config, "session");
    const writing = author.start();
    const goesOn = async () => {
      const { events } = sink.status;
      await waitFor(() => sink.status.events > events + 200, {
        what: "the sink to go on",
        deadlineMs: 30_000,
      });
    };
    await goesOn();
    await broker.kill();
    await broker.again();
    await goesOn();
    await writing.stop();
    await caughtUp(own.redis, own.target, own.config, "session", { deadlineMs: 60_000 });
    await assertExact(own, author);
  }));

Deno.test({
  name: "Kafka: a sink that stood still past its lease writes nothing any more",
  ignore,
}, () =>
  withSeed(async (random) => {
    await using own = await pipeline(server!);
    const author = new Author(own.redis, own.config, { random, documents: 40, paceMs: 2 });
    const keys = partitionKeys(own.config, "session", 0);
    const owner = async () => {
      const { owner, live } = await own.target.offsets.standing(keys);
      return live ? owner : null;
    };
    await using first = own.start(["sink"]);
    const before = await waitFor(owner, { what: "the first owner", deadlineMs: 20_000 });
    await using second = own.start(["sink"]);
    const writing = author.start();
    await waitFor(() => second.output().includes("is owned by another sink"), {
      what: "the second to stand by",
      deadlineMs: 20_000,
    });
    // Very likely in the middle of a transaction.
    first.kill("SIGSTOP");
    await waitFor(async () => ![null, before].includes(await owner()), {
      what: "the second to take over",
      deadlineMs: 20_000,
    });
    first.kill("SIGCONT");
    await waitFor(() => /was taken|owns .* now|owned by another sink/.test(first.output()), {
      what: "the first to notice",
      deadlineMs: 20_000,
    });
    await writing.stop();
    await caughtUp(own.redis, own.target, own.config, "session", { deadlineMs: 30_000 });
    await assertExact(own, author);
  }));

Deno.test(
  { name: "Kafka: a zombie's open transaction is ended by the next claim", ignore },
  async () => {
    await using place = await makePlace(server!);
    await using one = await claimed(place);
    await one.target.batches.apply(one.claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    await one.target.ownership.release(one.keys, one.claim);
    const prefix = one.target.describe().address.match(/test_\d+\./)![0];
    const zombie = new Producer(place.client, `${prefix}writebehind_offset.${one.keys.stream}`);
    await zombie.begin();
    const message = { key: Buffer.from("a"), value: Buffer.from('"zombie"'), headers: [] };
    await zombie.send([{ topic: `${prefix}sessions`, ...message }], () => {});
    await using other = await claimed(place, "other");
    assert.equal(other.claim.offset, streamId(1));
    assert.deepEqual(await textsOf(other.target, place, ["a"]), ["1"]);
    await assert.rejects(zombie.end(true), FencedError);
    await other.target.batches.apply(other.claim, batch(2, { upserts: [insert("b", "2", 2)] }));
    assert.deepEqual(await textsOf(other.target, place, ["a", "b"]), ["1", "2"]);
    await assert.rejects(one.target.batches.apply(one.claim, batch(2)), OwnershipLostError);
  },
);

Deno.test({
  name: "Kafka: a sink whose lease has ended without its noticing writes nothing",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  const [keys] = partitionsOf(place);
  await using one = await openWhole(place);
  const claim = (await one.ownership.claim(keys!, "one", 0.5))!;
  await one.batches.apply(claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  await using other = await openWhole(place);
  const next = await waitFor(() => other.ownership.claim(keys!, "other", 30), {
    what: "the lease to end",
  });
  const late = batch(2, { upserts: [insert("b", "2", 2)] });
  await assert.rejects(one.batches.apply(claim, late), OwnershipLostError);
  // It was fenced off for a moment, and goes on.
  await other.batches.apply(next, batch(3, { upserts: [insert("c", "3", 3)] }));
  assert.deepEqual(await textsOf(other, place, ["a", "b", "c"]), ["1", null, "3"]);
  await assert.rejects(one.ownership.renew(claim, 0.5), OwnershipLostError);
});

Deno.test({
  name: "Kafka: while somebody's transaction stays open, a look at a partition is answered",
  ignore,
}, async () => {
  await using place = await makePlace(server!);
  await using own = await claimed(place);
  await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", "1", 1)] }));
  const prefix = own.target.describe().address.match(/test_\d+\./)![0];
  const other = new Producer(place.client, crypto.randomUUID());
  await other.begin();
  const key = Buffer.from(own.keys.stream);
  const topic = `${prefix}writebehind_offset`;
  await other.send([{ topic, key, value: Buffer.from("{}"), headers: [] }], () => {});
  const began = performance.now();
  const { offset, live } = await own.target.offsets.standing(own.keys);
  assert.deepEqual([offset, live], [streamId(1), true]);
  assert(performance.now() - began < 8000);
  // The owner need not read, and goes on.
  await own.target.batches.apply(own.claim, batch(2, { upserts: [insert("b", "2", 2)] }));
  await other.end(false);
  assert.equal(await own.target.offsets.offset(own.keys), streamId(2));
});

Deno.test({
  name: "Kafka: what is too large for the topic is parked, and replayed when it takes more",
  ignore,
}, async () => {
  await using own = await pipeline(server!);
  const { redis, config, target, client, topic } = own;
  await target.migrate("session");
  await limit(client, topic, 20_000);
  for (let n = 0; n < 30; n++) {
    const text = "x".repeat(n === 17 ? 30_000 : 3000);
    await insertDocument(redis, config, "session", { n, text }, `d${n}`);
  }
  const { rows, parked } = await drain(own);
  assert.deepEqual([rows, parked], [29, 1]);
  const [letter] = await Array.fromAsync(target.deadLetters!.list("session", "parked"));
  assert.deepEqual([letter!.docId, letter!.sqlstate], ["d17", "MESSAGE_TOO_LARGE"]);
  assert.match(
    letter!.reason,
    /takes about 30\d\d\d bytes, and max.message.bytes of the topic .*20000/,
  );
  const { counts } = await verify(redis, target, config, "session");
  assert.deepEqual([counts.mismatches, counts.parked], [0, 1]);
  await limit(client, topic, 100_000);
  const report = await replayDeadLetters(redis, target, config, "session", { all: true });
  assert.equal(report.applied, 1);
  assert.equal((await verify(redis, target, config, "session")).equal, 30);
});

Deno.test({
  name: "Kafka: a topic that was removed, or made anew, is refused with what to do",
  ignore,
}, async () => {
  await using own = await pipeline(server!);
  const { redis, config, client, topic } = own;
  await insertDocument(redis, config, "session", { n: 1 }, "a");
  await drain(own);
  const { deleteTopicsV6 } = await import("@platformatic/kafka");
  await client.any(deleteTopicsV6.api, [{ name: topic }], 10_000);
  await waitFor(async () => await client.topic(topic, { fresh: true }) === null, {
    what: "the topic to be gone",
  });
  await insertDocument(redis, config, "session", { n: 2 }, "b");
  await assert.rejects(drain(own), /The table test_.*sessions is gone, and the offset of stream:/);
});

/** The one message of what a command is refused with. */
async function refusal(config: Config, work = true): Promise<string> {
  const tried = async () => {
    await using target = await openTarget(config);
    if (work) await target.migrate("session");
  };
  const error = await tried().then(() => null, (error: Error) => error);
  assert(error !== null, "nothing was refused");
  assert(!error.message.includes("\n"), error.message);
  return error.message;
}

Deno.test({
  name: "Kafka: brokers that cannot be used get one line that says what to do",
  ignore,
}, async (t) => {
  const jaas =
    `org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" ` +
    `password="s3cret" user_admin="s3cret" user_app="s3cret" user_nobody="s3cret";`;
  const pems = testFolder("pem");
  await Deno.mkdir(pems);
  const authority = join(pems, "authority.pem");
  const pem = await Deno.readTextFile(CERTIFICATES.authority);
  await Deno.writeTextFile(authority, pem.slice(pem.indexOf("-----BEGIN CERTIFICATE")));
  await using broker = await testKafka({
    "listener.security.protocol.map": "PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": jaas,
    "ssl.keystore.type": "PEM",
    "ssl.keystore.location": CERTIFICATES.server,
    "ssl.truststore.type": "PEM",
    "ssl.truststore.location": authority,
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:admin;User:app;User:ANONYMOUS",
  });
  await using lost = await testKafka({
    "advertised.listeners": "PLAINTEXT://nowhere.invalid:9092",
  });
  await using old = await testKafka({}, { version: OLD_KAFKA_VERSION });
  const fine = {
    ...addressOf(topicsOn(broker).target),
    user: "app",
    password: "s3cret",
    mechanism: "PLAIN" as const,
    ssl: "verify-full" as const,
    sslrootcert: CERTIFICATES.authority,
  };
  const configFor = (given: Partial<typeof fine> | object) =>
    configWith(parseConfig("", "test.yaml"), { targets: [{ ...fine, ...given }] });
  const cases: [what: string, given: object, message: RegExp][] = [
    [
      "nothing listens there",
      { brokers: ["127.0.0.1:1"] },
      /^Cannot connect to Kafka at 127.0.0.1:1 .*: Kafka: .*ECONNREFUSED.*; check brokers of this /,
    ],
    [
      "a wrong password",
      { password: "wr0ng" },
      /check user, password, mechanism and ssl of this target/,
    ],
    [
      "a mechanism that it has not",
      { mechanism: "SCRAM-SHA-512" },
      /check user, password, mechanism and ssl/,
    ],
    ["no login", { user: null }, /Connection closed; if the brokers want a login, set user and /],
    ["no TLS", { user: null, ssl: "disable" }, /requires TLS.*; set ssl of this target to require/],
    [
      "a certificate that is not trusted",
      { sslrootcert: null },
      /(certificate|UnknownIssuer).*; check that the brokers take TLS .*sslrootcert/i,
    ],
    [
      "TLS where they take none",
      { brokers: [server!.broker] },
      /; check that the brokers take TLS at that port, and sslrootcert of this target/,
    ],
    [
      "a login where they want none",
      { brokers: [server!.broker], ssl: "disable" },
      /; check user, password, mechanism and ssl of this target/,
    ],
    [
      "brokers that tell an address where they are not",
      { brokers: [lost.broker], ssl: "disable", user: null },
      /where they say that they are \(advertised.listeners\): nowhere.invalid:9092: .*ENOTFOUND/,
    ],
    [
      "brokers that are too old",
      { brokers: [old.broker], ssl: "disable", user: null },
      /^Cannot connect to Kafka at 127.0.0.1:\d+ .*: Kafka 3.2 is needed, or newer$/,
    ],
    ["no rights", { user: "nobody" }, /_AUTHORIZATION_FAILED: .*; allow the user /],
  ];
  for (const [what, given, message] of cases) {
    await t.step(what, async () => {
      const said = await refusal(configFor(given));
      assert.match(said, message);
      assert(!said.includes("s3cret") && !said.includes("wr0ng"), said);
    });
  }
  await t.step("and with all that is right", async () => {
    await using target = await openTarget(configFor({}));
    await target.migrate("session");
    await target.check("session");
  });
  await Deno.remove(dirname(authority), { recursive: true });
});

Deno.test(
  { name: "Kafka: messages of other producers are documents of no version", ignore },
  async () => {
    await using place = await makePlace(server!);
    await using own = await claimed(place);
    const prefix = own.target.describe().address.match(/test_\d+\./)![0];
    await produce(place.client, [
      { topic: `${prefix}sessions`, key: Buffer.from("a"), value: Buffer.from("1"), headers: [] },
    ]);
    const { rows } = await own.target.rows.at(own.keys, ["a"]);
    assert.deepEqual(rows, [{ text: "1", version: "0" }]);
  },
);
