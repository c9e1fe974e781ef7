/** What a session keeps, and whom its end lets fail. No broker is asked. */

import assert from "node:assert/strict";
import { setImmediate as immediate } from "node:timers/promises";
import v8 from "node:v8";
import { runInNewContext } from "node:vm";
import { Client } from "writebehind/targets/kafka/client.ts";
import { Letters } from "writebehind/targets/kafka/letters.ts";
import { Session } from "writebehind/targets/kafka/session.ts";
import { States } from "writebehind/targets/kafka/states.ts";
import { topicNames, Topics } from "writebehind/targets/kafka/topics.ts";
import { addressOf } from "./place.ts";

function session(): Session {
  const brokers = ["127.0.0.1:1"];
  const address = addressOf({ name: "second", kind: "kafka", brokers, prefix: "" });
  const client = new Client(address);
  const names = topicNames("");
  const states = new States(client, names.offset);
  const letters = new Letters(client, names.deadLetter);
  const topics = new Topics(client, names, states, 1000, false);
  const topicOf = names.of;
  const documentsOf = (entity: string) => ({ name: topicOf(entity), everyEvent: false });
  const shared = { address, client, states, letters, topics, topicOf, documentsOf };
  const place = { entity: "session", stream: "stream:session" };
  return new Session({ ...shared, sessionMs: 1000 }, place, { isOwner: true });
}

/** Frees all that nobody can reach. */
function collect(): void {
  v8.setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
}

Deno.test("Kafka: a session keeps nothing of the work that it has done", async () => {
  const own = session();
  const results: WeakRef<object>[] = [];
  for (let batch = 0; batch < 50; batch++) {
    await own.alone(() => {
      const result = {};
      results.push(new WeakRef(result));
      return Promise.resolve(result);
    });
  }
  await own.alone(() => Promise.resolve()); // the last one is kept for the next
  await immediate(); // a weak reference holds for the turn in which it was made
  collect();
  assert.equal(results.filter((result) => result.deref() !== undefined).length, 0);
  await own.end(new Error("over"));
});

Deno.test("Kafka: a session's end lets all fail that wait, and who comes later", async () => {
  const own = session();
  const begun = Promise.withResolvers<void>();
  const unanswered = () => {
    begun.resolve();
    return new Promise<void>(() => {});
  };
  const waiting = [own.alone(unanswered), own.alone(unanswered)];
  const refused = waiting.map((one) => assert.rejects(one, { message: "over" }));
  await begun.promise;
  await own.end(new Error("over"));
  await Promise.all(refused);
  await assert.rejects(own.alone(() => Promise.resolve()), { message: "over" });
});
