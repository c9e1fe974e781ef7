import fc from "fast-check";
import assert from "node:assert/strict";
import pg from "pg";
import {
  caughtUp,
  configWith,
  connectPostgres,
  connectRedis,
  consumePeriodically,
  insertDocument,
  openTarget,
  parseConfig,
} from "writebehind";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { allPartitions } from "writebehind/redis/keys.ts";
import { Sharing } from "writebehind/sink/sharing.ts";
import { planOf } from "writebehind/sink/sharing_rule.ts";
import type { Ownership } from "writebehind/targets/target.ts";
import { killSink, startSink } from "../faults/sinks.ts";
import { assertEqual, type Pipeline, testPipeline } from "../support/pipeline.ts";
import { waitFor } from "../support/servers.ts";

/** What happens to a world of processes: who comes, dies, is not seen, or sees what was a while ago. */
type Step =
  | { kind: "joins" }
  | { kind: "dies"; who: number }
  | { kind: "unseen"; who: number }
  | { kind: "rests" };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.constant<Step>({ kind: "joins" }),
  fc.nat().map((who): Step => ({ kind: "dies", who })),
  fc.nat().map((who): Step => ({ kind: "unseen", who })),
  fc.constant<Step>({ kind: "rests" }),
);

/** Claims are the target's: they go to whoever is first, and raise the epoch. */
class World {
  readonly members = new Set<string>();
  /** by stream */
  readonly owners = new Map<string, { owner: string; epoch: number }>();
  readonly streams: string[];
  moves = 0;
  #names = 0;
  #before: { members: string[]; owners: Map<string, string> };

  constructor(partitions: number) {
    this.streams = Array.from({ length: partitions }, (_, index) => `s${index}`);
    this.#before = this.seen();
  }

  seen() {
    const owners = new Map<string, string>();
    for (const [stream, { owner }] of this.owners) {
      if (this.members.has(owner)) owners.set(stream, owner);
    }
    return { members: [...this.members], owners };
  }

  take(step: Step) {
    const nth = (who: number) => [...this.members][who % this.members.size];
    if (step.kind === "joins" || this.members.size === 0) this.members.add(`p${this.#names++}`);
    else if (step.kind === "dies") {
      this.members.delete(nth(step.who)!);
      if (this.members.size === 0) this.members.add(`p${this.#names++}`);
    }
  }

  /** Everyone looks once; `stale` see what was at the last round. */
  round(stale: (member: string) => boolean) {
    const now = this.seen();
    for (const me of this.members) {
      const shares = stale(me) ? this.#before : now;
      const { take, give } = planOf(me, shares, this.streams);
      for (const stream of give) {
        if (this.owners.get(stream)?.owner === me) this.owners.get(stream)!.owner = "";
      }
      for (const stream of take) {
        const held = this.owners.get(stream);
        if (held && this.members.has(held.owner)) continue; // another was first
        this.owners.set(stream, { owner: me, epoch: (held?.epoch ?? 0) + 1 });
        this.moves++;
      }
    }
    this.#before = now;
  }

  counts(): number[] {
    const counts = new Map([...this.members].map((member) => [member, 0]));
    for (const { owner } of this.owners.values()) {
      if (counts.has(owner)) counts.set(owner, counts.get(owner)! + 1);
    }
    return [...counts.values()];
  }

  /** How many must move at the least, so that all are even. */
  leastMoves(): number {
    const counts = this.counts().sort((a, b) => b - a);
    const least = Math.floor(this.streams.length / counts.length);
    const leftOver = this.streams.length % counts.length;
    return counts.reduce(
      (sum, count, index) => sum + Math.max(0, least + (index < leftOver ? 1 : 0) - count),
      0,
    );
  }
}

Deno.test("sharing: whoever comes, dies, or sees what was, all become even, by the fewest moves", () => {
  const run = fc.record({
    partitions: fc.integer({ min: 1, max: 1000 }),
    members: fc.integer({ min: 1, max: 100 }),
    steps: fc.array(step, { maxLength: 30 }),
  });
  fc.assert(
    fc.property(run, ({ partitions, members, steps }) => {
      const world = new World(partitions);
      for (let n = 0; n < members; n++) world.take({ kind: "joins" });
      for (const step of steps) {
        world.take(step);
        const unseen = step.kind === "unseen"
          ? [...world.members][step.who % world.members.size]
          : "";
        world.round((member) => member === unseen);
      }
      // Nothing happens any more: a round in which surpluses are given, and one in which they are taken.
      const needed = world.leastMoves();
      const before = world.moves;
      world.round(() => false);
      world.round(() => false);
      const counts = world.counts();
      assert.equal(counts.reduce((sum, count) => sum + count, 0), partitions, "all are owned");
      assert(Math.max(...counts) - Math.min(...counts) <= 1, `${counts}`);
      assert.equal(world.moves - before, needed);
      world.round(() => false);
      assert.equal(world.moves - before, needed, "at rest, nothing moves");
    }),
    { numRuns: 200 },
  );
});

Deno.test("sharing: partitions of a process that is no member are nobody's business", () => {
  const streams = ["a", "b", "c", "d"];
  const owners = new Map([["a", "old"], ["b", "old"]]);
  assert.deepEqual(planOf("p", { members: ["p", "q"], owners }, streams), {
    take: ["c"],
    keep: [],
    give: [],
  });
  const alone = planOf("p", { members: [], owners }, streams);
  assert.deepEqual(alone, { take: ["c", "d"], keep: [], give: [] });
});

/** The live leases of partitions: their owners and epochs, by stream. */
async function leases({ pool, config }: Pipeline): Promise<Map<string, string>> {
  const streams = allPartitions(config, "session").map(({ stream }) => stream);
  const { rows } = await pool.query<{ stream: string; lease: string }>(
    `SELECT stream, owner || ' ' || epoch AS lease FROM writebehind_lease
      WHERE lease_until > clock_timestamp() AND stream = ANY ($1)`,
    [streams],
  );
  return new Map(rows.map(({ stream, lease }) => [stream, lease]));
}

/** How many partitions each process has, the most first. */
const countsOf = (held: Map<string, string>) =>
  [...Map.groupBy(held.values(), (lease) => lease.split(" ")[0]!).values()]
    .map(({ length }) => length).sort((a, b) => b - a);

Deno.test("sharing: sinks come, are killed and are stopped, and share what there is", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 8 } });
  const { redis, config } = pipeline;
  // Far longer than what follows takes: a killed one is noticed by its session.
  const keys = { lease_seconds: 30 };
  let count = 0;
  const write = async () => {
    await Promise.all(
      Array.from(
        { length: 20 },
        () => insertDocument(redis, config, "session", { count: count++ }),
      ),
    );
  };
  let last = new Map<string, string>();
  const shared = async (counts: number[], deadlineMs: number) => {
    const before = last;
    await waitFor(async () => {
      await write();
      last = await leases(pipeline);
      return String(countsOf(last)) === String(counts);
    }, { what: `${counts} partitions`, deadlineMs }).catch((error) => {
      throw new Error(`${error.message}: ${[...last].join("; ")}`);
    });
    return [...last].filter(([stream, lease]) => before.get(stream) !== lease).length;
  };
  await using first = await startSink(config, keys);
  await shared([8], 20_000);
  await using second = await startSink(config, keys);
  // It takes some seconds to start, and then its share within five.
  assert.equal(await shared([4, 4], 15_000), 4, "only what moves is claimed anew");
  await using third = await startSink(config, keys);
  assert.equal(await shared([3, 3, 2], 15_000), 2);
  await killSink(second);
  const moved = await shared([4, 4], 10_000);
  assert(moved <= 3, `${moved} partitions moved`);
  third.kill("SIGTERM");
  assert.equal(await shared([8], 10_000), 4);
  await using target = await openTarget(config);
  await caughtUp(redis, target, config, "session");
  await assertEqual(pipeline);
  assert.equal(first.output().includes("failed"), false, first.output());
});

Deno.test("sharing: a process that has lost its Redis gives all to the others, and comes back", async () => {
  await using pipeline = await testPipeline({
    streams: { partitions: 4 },
    write_behind: { lease_seconds: 30 },
  });
  const { redis, pool, config, servers } = pipeline;
  await using proxy = await TcpProxy.start(servers.redis);
  const behind = pipeline.with({ redis: { host: "127.0.0.1", port: proxy.port } });
  await using distant = await connectRedis(behind);
  await using first = consumePeriodically(redis, pool, config, "session");
  await using otherPool = await connectPostgres(config);
  await using second = consumePeriodically(distant, otherPool, behind, "session");
  const shared = (counts: number[]) =>
    waitFor(async () => String(countsOf(await leases(pipeline))) === String(counts), {
      what: `${counts} partitions`,
      deadlineMs: 15_000,
    });
  await shared([2, 2]);
  await proxy.refuse();
  proxy.resetAll();
  await shared([4]);
  const written = Array.from(
    { length: 40 },
    (_, n) => insertDocument(redis, config, "session", { n }),
  );
  await Promise.all(written);
  await caughtUp(redis, pool, config, "session", { deadlineMs: 10_000 });
  assert.equal(first.lastError, null);
  // It is not to blame any more, and takes over where the first one ends.
  await proxy.heal();
  await first.stop();
  await shared([4]);
  // It may have claimed before its own connection to Redis was back.
  await waitFor(() => second.lastError === null, { what: "it to be well", deadlineMs: 30_000 });
});

Deno.test("sharing: a process that was frozen for longer than its lease comes back to its share", async () => {
  await using pipeline = await testPipeline({ streams: { partitions: 8 } });
  const { redis, config } = pipeline;
  const keys = { lease_seconds: 2 };
  const shared = (counts: number[]) =>
    waitFor(async () => String(countsOf(await leases(pipeline))) === String(counts), {
      what: `${counts} partitions`,
      deadlineMs: 20_000,
    });
  await using first = await startSink(config, keys);
  await shared([8]);
  await using second = await startSink(config, keys);
  await shared([4, 4]);
  first.kill("SIGSTOP");
  await shared([8]);
  first.kill("SIGCONT");
  await shared([4, 4]);
  await Promise.all(
    Array.from({ length: 80 }, (_, n) => insertDocument(redis, config, "session", { n })),
  );
  await using target = await openTarget(config);
  await caughtUp(redis, target, config, "session", { deadlineMs: 10_000 });
  await assertEqual(pipeline);
  assert.equal(second.errors().includes("failed"), false, second.errors());
});

Deno.test("sharing: while the target is away, nobody is to blame", async () => {
  const config = configWith(parseConfig("", "test.yaml"), { streams: { partitions: 4 } });
  const partitions = allPartitions(config, "session");
  const asked: boolean[] = [];
  let isAway = true;
  const share: Ownership["share"] = (_partitions, _process, { isMember }) => {
    asked.push(isMember);
    return isAway ? Promise.reject(new Error("away")) : Promise.resolve({
      members: ["other"],
      owners: new Map(partitions.map(({ stream }) => [stream, "other"])),
    });
  };
  const stop = new AbortController();
  const sharing = new Sharing({ share } as Ownership, config, partitions, {
    process: "me",
    fails: () => true,
    onGive: () => {},
  });
  for (const { stream } of partitions) sharing.note(stream, { isMine: true });
  const running = sharing.run(stop.signal);
  await waitFor(() => asked.length >= 2, { what: "looks in vain" });
  // Another has taken all meanwhile.
  for (const { stream } of partitions) sharing.note(stream, { isMine: false });
  isAway = false;
  const before = asked.length;
  await waitFor(() => asked.length >= before + 3, { what: "looks" });
  stop.abort();
  await running;
  assert.deepEqual(asked.slice(before), asked.slice(before).map(() => true));
});

Deno.test("sharing: a process that can claim nothing is not left with a share", async () => {
  await using pipeline = await testPipeline({
    streams: { partitions: 4 },
    write_behind: { lease_seconds: 60 },
  });
  const { redis, pool, config } = pipeline;
  await using first = consumePeriodically(redis, pool, config, "session");
  const all = () =>
    waitFor(async () => String(countsOf(await leases(pipeline))) === "4", {
      what: "all partitions",
      deadlineMs: 20_000,
    });
  await all();
  const { host, port, user, password, database } = config.postgresql;
  const login = { host, port, user, database, ...(password === null ? {} : { password }) };
  const narrow = new pg.Pool({ ...login, max: 3 });
  try {
    await using second = consumePeriodically(redis, narrow, config, "session");
    await waitFor(() => second.lastError !== null, { what: "its refusal", deadlineMs: 20_000 });
    await all();
    await Promise.all(
      Array.from({ length: 40 }, (_, n) => insertDocument(redis, config, "session", { n })),
    );
    await caughtUp(redis, pool, config, "session", { deadlineMs: 15_000 });
    assert.equal(first.lastError, null);
  } finally {
    await narrow.end();
  }
});

Deno.test("sharing: what a member leaves lying is taken by another, and kept", async () => {
  await using pipeline = await testPipeline({
    streams: { partitions: 4 },
    write_behind: { lease_seconds: 1 },
  });
  const { redis, pool, config } = pipeline;
  await pool.query(
    `INSERT INTO writebehind_lease (stream, owner, epoch, lease_until, backend_pid, backend_started,
                                    granted_seconds, session_epoch)
     VALUES ('member of ' || $1 || ' 1', 'idler', 1, now() + interval '1 hour', 1, now(), 3600, 1)`,
    [allPartitions(config, "session")[0]!.stream],
  );
  await using _ = consumePeriodically(redis, pool, config, "session");
  const counts = async () => String(countsOf(await leases(pipeline)));
  await waitFor(async () => await counts() === "2", { what: "its share" });
  await waitFor(async () => await counts() === "4", { what: "what is left" });
  const before = [...await leases(pipeline)];
  const since = Date.now();
  await waitFor(() => Date.now() - since > 3500, { what: "three more looks" });
  assert.deepEqual([...await leases(pipeline)].sort(), before.sort());
});
