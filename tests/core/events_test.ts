import assert from "node:assert/strict";
import { Emitter, type ListenerFailed, OncePerMinute } from "writebehind/core/events.ts";

interface Events {
  happened: { n: number };
  listenerFailed: ListenerFailed;
}

Deno.test("each listener of a name gets its events, until it ends that", () => {
  const emitter = new Emitter<Events>();
  const got: number[] = [];
  const all: string[] = [];
  const end = emitter.on("happened", ({ n }) => got.push(n));
  emitter.onAll((name) => all.push(name));
  emitter.emit("happened", { n: 1 });
  end();
  emitter.emit("happened", { n: 2 });
  assert.deepEqual(got, [1]);
  assert.deepEqual(all, ["happened", "happened"]);
});

Deno.test("a listener that throws or rejects harms nobody, and is reported", async () => {
  const emitter = new Emitter<Events>();
  const failed: string[] = [];
  const got: number[] = [];
  emitter.on("listenerFailed", ({ listensTo, error }) => {
    failed.push(`${listensTo}: ${error.message}`);
    throw new Error("this one as well");
  });
  emitter.on("happened", () => {
    throw new Error("thrown");
  });
  emitter.on("happened", () => Promise.reject(new Error("rejected")));
  emitter.on("happened", ({ n }) => got.push(n));
  emitter.emit("happened", { n: 1 });
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(got, [1]);
  assert.deepEqual(failed, ["happened: thrown", "happened: rejected"]);
});

Deno.test("what goes on is reported once a minute, and at once when it comes back", () => {
  let now = 0;
  const reports = new OncePerMinute(() => now);
  assert(reports.allows("trim"));
  assert(reports.allows("renew"));
  now = 59_999;
  assert(!reports.allows("trim"));
  now = 60_000;
  assert(reports.allows("trim"));
  reports.over("trim");
  assert(reports.allows("trim"));
});
