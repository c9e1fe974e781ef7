import assert from "node:assert/strict";
import { prefetch } from "writebehind/operate/verify/prefetch.ts";

/** Lets everything else run that can: a rejection that nobody has asked for by then ends the process. */
const turn = () => new Promise((resolve) => setTimeout(resolve));

/** Counts up to `count`, and tells when it is closed. */
async function* numbers(count: number, closed: () => void = () => {}): AsyncGenerator<number> {
  try {
    for (let n = 1; n <= count; n++) {
      await turn();
      yield n;
    }
  } finally {
    closed();
  }
}

async function all<T>(values: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const value of values) list.push(value);
  return list;
}

Deno.test("prefetch gives all results in order, whichever is ready first", async () => {
  const gates = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
  const work = async (n: number) => {
    await gates[n]?.promise;
    gates[n - 1]?.resolve();
    return n * 10;
  };
  gates[3]!.resolve();
  assert.deepEqual(await all(prefetch(numbers(3), 3, work)), [10, 20, 30]);
  assert.deepEqual(await all(prefetch(numbers(0), 3, work)), []);
  assert.deepEqual(await all(prefetch(numbers(2), 3, (n) => Promise.resolve(n))), [1, 2]);
});

Deno.test("prefetch works on no more values at a time than its width", async () => {
  for (const width of [1, 2, 3]) {
    let under = 0;
    let most = 0;
    const work = async () => {
      most = Math.max(most, ++under);
      for (let turns = 0; turns < 5; turns++) await turn();
      under--;
    };
    await all(prefetch(numbers(10), width, work));
    assert.equal(most, width);
  }
});

Deno.test("a failure of prefetch's work or source comes when its turn comes", async () => {
  const failing = (n: number) => n === 2 ? Promise.reject(new Error("two")) : Promise.resolve(n);
  for (const width of [1, 3]) {
    const seen: number[] = [];
    let closed = false;
    await assert.rejects(async () => {
      for await (const n of prefetch(numbers(5, () => closed = true), width, failing)) seen.push(n);
    }, /two/);
    assert.deepEqual(seen, [1]);
    assert(closed);
  }
  async function* broken() {
    yield* numbers(2);
    throw new Error("broken");
  }
  await assert.rejects(all(prefetch(broken(), 2, (n) => Promise.resolve(n))), /broken/);
});

Deno.test("who breaks off waits for what prefetch has under way, and its source is closed", async () => {
  const second = Promise.withResolvers<void>();
  let closed = false;
  let done = false;
  const work = async (n: number) => {
    if (n === 1) return;
    await second.promise;
    for (let turns = 0; turns < 5; turns++) await turn();
    done = true;
    throw new Error("nobody asks for it");
  };
  const results = prefetch(numbers(5, () => closed = true), 2, work);
  await results.next();
  const end = results.return(undefined);
  assert(!done);
  second.resolve();
  await end;
  assert(done);
  assert(closed);
});
