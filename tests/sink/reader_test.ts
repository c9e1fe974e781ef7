import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { partitionKeys } from "writebehind/redis/keys.ts";
import { type Event, isEvent, type Item } from "writebehind/sink/decode.ts";
import { StreamReader } from "writebehind/sink/reader.ts";
import { testPipeline } from "../support/pipeline.ts";

const MIB = 2 ** 20;
/** Around the size of the reader's chunks, and far from it. */
const SIZES = [0, 1, 350, MIB - 300, MIB - 1, MIB, MIB + 1, 3 * MIB, 17, 5000];

const payloadsOf = (items: Item[]) =>
  items.map((item) => isEvent(item) ? item.payload!.toString("latin1") : "no event");

/** There is always a place. */
const slot = () => Promise.resolve();

Deno.test("the reader gives every byte of entries of all sizes, and keeps parts until they are freed", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  const written: string[] = [];
  for (let round = 0; round < 3; round++) {
    for (const size of SIZES) {
      const payload = randomBytes(size);
      written.push(payload.toString("latin1"));
      const fields = ["ts", "5", "doc_id", `d${written.length}`, "event_type", "insert"];
      await redis.xadd(keys.stream, "*", ...fields, "payload", payload);
    }
  }
  const reader = new StreamReader(config, keys);
  try {
    const parts: Item[][] = [];
    let position = "0-0";
    for (;;) {
      const { items, more } = await reader.read(position, 7, { wait: false, slot });
      parts.push(items);
      if (!more) break;
      position = items.at(-1)!.streamId;
    }
    assert.deepEqual(parts.flatMap(payloadsOf), written);
    const ids = parts.flat().map((item) => (item as Event).key);
    assert.deepEqual(ids, written.map((_, index) => `d${index + 1}`));
  } finally {
    reader.close();
  }
});

Deno.test("the memory of parts that were freed is used again by any partition, and one that waits holds little", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 3 } });
  const { redis, config } = pipeline;
  const read = async (partition: number, count: number) => {
    const keys = partitionKeys(config, "session", partition);
    const text = String(partition).repeat(300_000);
    for (let n = 0; n < count; n++) {
      await redis.xadd(keys.stream, "*", "doc_id", "d", "event_type", "insert", "payload", text);
    }
    const reader = new StreamReader(config, keys);
    after.defer(() => reader.close());
    const part = await reader.read("0-0", 20, { wait: false, slot });
    assert.equal(part.items.length, count);
    return { ...part, reader, keys, text };
  };
  const memoryOf = ({ items }: { items: Item[] }) =>
    new Set(items.map((item) => (item as Event).docId.buffer));
  using after = new DisposableStack();
  const first = await read(0, 12);
  const kept = memoryOf(first);
  const second = await read(1, 12);
  assert.equal(kept.intersection(memoryOf(second)).size, 0, "nobody has freed the first one");
  assert.deepEqual(payloadsOf(first.items), Array(12).fill(first.text));
  first.free();
  first.free();
  // The last chunk is still read into, until its connection reads on.
  const last = first.items.at(-1)!.streamId;
  await redis.xadd(first.keys.stream, "*", "doc_id", "e", "event_type", "delete");
  const little = await first.reader.read(last, 20, { wait: true, slot });
  assert.deepEqual([...memoryOf(little)].map(({ byteLength }) => byteLength), [1 << 14]);
  const third = await read(2, 12);
  assert(memoryOf(third).isSubsetOf(kept));
  assert.deepEqual(payloadsOf(third.items), Array(12).fill(third.text));
  assert.deepEqual(payloadsOf(second.items), Array(12).fill(second.text));
});

Deno.test("a read that waits gives what is there at once, and what comes later when it comes", async () => {
  await using pipeline = await testPipeline();
  const { redis, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  const add = (id: string) =>
    redis.xadd(keys.stream, "*", "ts", "5", "doc_id", id, "event_type", "delete");
  const reader = new StreamReader(config, keys);
  try {
    const first = await add("a");
    await add("b");
    const there = await reader.read("0-0", 10, { wait: true, slot });
    assert.deepEqual(there.items.map((item) => (item as Event).docId.toString()), ["a", "b"]);
    assert.equal(there.more, false);
    assert.equal((await reader.read("0-0", 1, { wait: true, slot })).more, true);
    assert.equal(there.items[0]!.streamId, first);

    const waiting = reader.read(there.items[1]!.streamId, 10, { wait: true, slot });
    const blocked = async () => /blocked_clients:[1-9]/.test(await redis.info("clients"));
    while (!await blocked());
    await add("c");
    assert.deepEqual((await waiting).items.map((item) => (item as Event).key), ["c"]);
  } finally {
    reader.close();
  }
});

Deno.test("an event that comes alone takes one read, also where no second document is sure to fit", async () => {
  const most = 2 * MIB;
  await using pipeline = await testPipeline({
    write_behind: { batch_bytes: most },
    documents: { max_bytes: most },
  });
  const { redis, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  const reader = new StreamReader(config, keys);
  try {
    const id = await redis.xadd(keys.stream, "*", "doc_id", "a", "event_type", "delete");
    await reader.read("0-0", 10, { wait: true, slot });
    await redis.config("RESETSTAT");
    const waiting = reader.read(id!, 10, { wait: true, slot });
    await redis.xadd(keys.stream, "*", "doc_id", "b", "event_type", "delete");
    const { items, more } = await waiting;
    assert.equal(items.length, 1);
    assert.equal(more, false);
    const stats = await redis.info("commandstats");
    assert.match(stats, /cmdstat_xread:calls=1,/);
    assert.doesNotMatch(stats, /cmdstat_(xrange|hget):/);
  } finally {
    reader.close();
  }
});

Deno.test("large entries of another program, which notes no sizes, fit the memory from the first read on", async () => {
  const most = 8 * MIB;
  await using pipeline = await testPipeline({
    write_behind: { batch_bytes: most },
    documents: { max_bytes: 2 * MIB },
  });
  const { redis, config } = pipeline;
  const keys = partitionKeys(config, "session", 0);
  const payload = randomBytes(MIB);
  for (let n = 0; n < 60; n++) {
    await redis.xadd(
      keys.stream,
      "*",
      "doc_id",
      `d${n}`,
      "event_type",
      "insert",
      "ts",
      "5",
      "payload",
      payload,
    );
  }
  const reader = new StreamReader(config, keys);
  try {
    let read = 0;
    for (let position = "0-0";;) {
      const { items, more } = await reader.read(position, 10_000, { wait: false, slot });
      assert(items.length <= most / MIB + 1, `${items.length} MB at once`);
      read += items.length;
      if (!more) break;
      position = items.at(-1)!.streamId;
    }
    assert.equal(read, 60);
  } finally {
    reader.close();
  }
});
