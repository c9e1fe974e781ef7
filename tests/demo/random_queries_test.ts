import assert from "node:assert/strict";
import { createSearchIndex, dummyDataWorker, randomSearchQueries } from "writebehind";
import { emptyRedis } from "../support/own_redis.ts";

Deno.test("random queries say what they asked and found; a failing one says why", async () => {
  await using own = await emptyRedis();
  const { redis, config } = own;
  const without = await randomSearchQueries(redis, config, "session", 3);
  assert.equal(without.length, 3);
  for (const { found, error } of without) {
    assert.equal(found, 0);
    assert.match(error!, /no such index/);
  }
  await createSearchIndex(redis, config, "session");
  await dummyDataWorker(redis, config, "session", {
    num_records: 200,
    create_pct: 1,
    update_pct: 0,
    delete_pct: 0,
  });
  const queries = await randomSearchQueries(redis, config, "session", 30, { seed: 5 });
  assert.deepEqual(await randomSearchQueries(redis, config, "session", 30, { seed: 5 }), queries);
  assert.equal(queries.length, 30);
  assert(queries.every(({ error }) => error === null));
  assert(queries.some(({ found }) => found > 20));
  for (const { asked, found } of queries) {
    const [, field, value] = /^@(\w+): (.*)$/.exec(asked)!;
    const keys = await redis.keys("session:*");
    const texts = await redis.call("JSON.MGET", ...keys, `$.${field}`) as string[];
    assert.equal(found, texts.filter((text) => JSON.parse(text)[0] === value).length, asked);
  }
});
