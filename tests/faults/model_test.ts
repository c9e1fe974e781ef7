/**
 * Random calls, drains, crashes of the sink, refusals and replays against a plain Map. A failing run prints its seed;
 * WRITEBEHIND_SEED=<seed> makes it again, and then looks for the shortest run that fails.
 */

import fc from "fast-check";
import assert from "node:assert/strict";
import {
  deleteDocument,
  DocumentError,
  insertDocument,
  type JsonObject,
  replayDeadLetters,
  updateDocument,
} from "writebehind";
import { canonicalJson } from "writebehind/core/json/equality.ts";
import {
  documentsOf,
  type Pipeline,
  reset,
  rowsOf,
  sorted,
  testPipeline,
} from "../support/pipeline.ts";
import { clearLedger, judge, keepLedger, versionsOf } from "./ledger.ts";
import { chooseSeed, SEED_VARIABLE } from "./seed.ts";
import { drain, killAt } from "./sinks.ts";

const RUNS = 25;

interface Model {
  documents: Map<string, { document: JsonObject; version: bigint }>;
  /** events that no drain has applied for certain */
  waiting: number;
  /** whether the database refuses documents with a key `x` now */
  forbidden: boolean;
  last: (() => Promise<{ repeated: boolean; version: bigint | null }>) | null;
}

type Command = fc.AsyncCommand<Model, Pipeline>;

const isError = (code: string) => (error: unknown) =>
  error instanceof DocumentError && error.code === code;

/** Stores a document, new or over an old one; a call by the same requestId again changes nothing. */
class Insert implements Command {
  constructor(readonly id: string, readonly document: JsonObject, readonly overwrite: boolean) {}
  check = () => true;
  async run(model: Model, { redis, config }: Pipeline) {
    const { id, document, overwrite } = this;
    const options = { overwrite, requestId: crypto.randomUUID() };
    const call = () => insertDocument(redis, config, "session", document, id, options);
    if (!overwrite && model.documents.has(id)) return assert.rejects(call, isError("exists"));
    const { version } = await call();
    model.documents.set(id, { document, version: version! });
    model.waiting++;
    model.last = call;
  }
  toString = () => `insert(${this.id}, ${JSON.stringify(this.document)}, ${this.overwrite})`;
}

class Update implements Command {
  constructor(readonly id: string, readonly patch: JsonObject) {}
  check = () => true;
  async run(model: Model, { redis, config }: Pipeline) {
    const { id, patch } = this;
    const options = { requestId: crypto.randomUUID() };
    const call = () => updateDocument(redis, config, "session", id, patch, options);
    const known = model.documents.get(id);
    if (known === undefined) return assert.rejects(call, isError("missing"));
    const { version } = await call();
    const document = { ...known.document };
    for (const [key, value] of Object.entries(patch)) {
      if (value === null) delete document[key];
      else document[key] = value;
    }
    model.documents.set(id, { document, version: version! });
    model.waiting++;
    model.last = call;
  }
  toString = () => `update(${this.id}, ${JSON.stringify(this.patch)})`;
}

class Delete implements Command {
  constructor(readonly id: string) {}
  check = () => true;
  async run(model: Model, { redis, config }: Pipeline) {
    const options = { requestId: crypto.randomUUID() };
    const call = () => deleteDocument(redis, config, "session", this.id, options);
    if (!model.documents.delete(this.id)) return assert.rejects(call, isError("missing"));
    await call();
    model.waiting++;
    model.last = call;
  }
  toString = () => `delete(${this.id})`;
}

/** As a writer does whose reply was lost. */
class Repeat implements Command {
  check = (model: Readonly<Model>) => model.last !== null;
  async run(model: Model) {
    assert.equal((await model.last!()).repeated, true);
  }
  toString = () => "repeat()";
}

class Drain implements Command {
  constructor(readonly batchSize: number) {}
  check = () => true;
  async run(model: Model, pipeline: Pipeline) {
    await drain(pipeline, { batch_size: this.batchSize });
    model.waiting = 0;
    // While some are refused, they and what is behind them wait in the dead-letter table.
    if (!model.forbidden) await assertEquals(model, pipeline);
  }
  toString = () => `drain(${this.batchSize})`;
}

/** A sink process that is killed at some place of its drain. */
class Crash implements Command {
  constructor(readonly place: string, readonly batchSize: number) {}
  // With documents refused a batch may be parked instead, which has places of its own.
  check = (model: Readonly<Model>) =>
    model.waiting > 0 && !(model.forbidden && /appl/.test(this.place));
  async run(model: Model, { config }: Pipeline) {
    await killAt(this.place, config, { keys: { batch_size: this.batchSize, lease_seconds: 0.1 } });
    // It may have applied all that was waiting, so that the next one would not come to its place.
    if (/applied|sent/.test(this.place)) model.waiting = 0;
  }
  toString = () => `crash(${this.place}, ${this.batchSize})`;
}

/** From now on the database refuses some documents: their events are parked. */
class Forbid implements Command {
  check = (model: Readonly<Model>) => !model.forbidden;
  async run(model: Model, { pool }: Pipeline) {
    await pool.query(
      "ALTER TABLE sessions ADD CONSTRAINT no_x CHECK (NOT payload ? 'x') NOT VALID",
    );
    model.forbidden = true;
  }
  toString = () => "forbid()";
}

/** The cause is mended, and what was parked is replayed. */
class Replay implements Command {
  check = (model: Readonly<Model>) => model.forbidden;
  async run(model: Model, pipeline: Pipeline) {
    const { redis, pool, config } = pipeline;
    await pool.query("ALTER TABLE sessions DROP CONSTRAINT no_x");
    model.forbidden = false;
    await drain(pipeline, { batch_size: 3 });
    const { failed } = await replayDeadLetters(redis, pool, config, "session", { all: true });
    assert.equal(failed, 0);
    await new Drain(100).run(model, pipeline);
  }
  toString = () => "replay()";
}

async function assertEquals({ documents }: Model, pipeline: Pipeline) {
  const wanted = new Map<string, string>();
  const versions = new Map<string, bigint>();
  for (const [id, { document, version }] of documents) {
    wanted.set(id, canonicalJson(JSON.stringify(document)));
    versions.set(id, version);
  }
  assert.deepEqual(sorted(await documentsOf(pipeline)), sorted(wanted), "Redis");
  assert.deepEqual(sorted(await rowsOf(pipeline)), sorted(wanted), "PostgreSQL");
  assert.deepEqual(await versionsOf(pipeline), versions);
}

const id = fc.constantFrom("a", "b", "c", "{d}");
const key = fc.constantFrom("x", "y", "z");
const value = fc.oneof(fc.integer(), fc.string({ maxLength: 5, unit: "grapheme" }), fc.boolean())
  .filter((value) => typeof value !== "string" || !value.includes("\0"));
const document = fc.dictionary(key, value, { noNullPrototype: true });
const patch = fc.dictionary(key, fc.option(value), { noNullPrototype: true });
const size = fc.integer({ min: 1, max: 5 });
/** Where a sink comes that finds at least one event; some of them are before it has done anything. */
const place = fc.constantFrom(
  ...["claiming", "claimed", "read", "coalesced", "applying", "sent apply session", "applied"],
);

/** Calls are many, crashes few. */
const COMMANDS: fc.Arbitrary<Command>[] = [
  fc.tuple(id, document, fc.boolean()).map((args) => new Insert(...args)),
  fc.tuple(id, document, fc.boolean()).map((args) => new Insert(...args)),
  fc.tuple(id, patch).map((args) => new Update(...args)),
  fc.tuple(id, patch).map((args) => new Update(...args)),
  id.map((id) => new Delete(id)),
  fc.constant(new Repeat()),
  size.map((size) => new Drain(size)),
  fc.constant(new Forbid()),
  fc.constant(new Replay()),
  fc.tuple(place, size).map((args) => new Crash(...args)),
];

Deno.test("any run of calls, drains and crashes leaves what a Map holds", async () => {
  await using pipeline = await testPipeline({ write_behind: { lease_seconds: 0.1 } });
  await keepLedger(pipeline);
  const seed = chooseSeed();
  const given = Deno.env.get(SEED_VARIABLE) !== undefined;
  try {
    await fc.assert(
      fc.asyncProperty(fc.commands(COMMANDS, { size: "medium", maxCommands: 30 }), async (run) => {
        await pipeline.pool.query("ALTER TABLE sessions DROP CONSTRAINT IF EXISTS no_x");
        await reset(pipeline);
        await clearLedger(pipeline);
        const model: Model = { documents: new Map(), waiting: 0, forbidden: false, last: null };
        await fc.asyncModelRun(() => ({ model, real: pipeline }), run);
        await (model.forbidden ? new Replay() : new Drain(100)).run(model, pipeline);
        const events = await pipeline.redis.exists("stream:session");
        if (events > 0) {
          assert.deepEqual(await judge(pipeline), { lost: 0, twice: 0, outOfOrder: 0 });
        }
      }),
      { seed, numRuns: RUNS, endOnFailure: !given },
    );
  } catch (cause) {
    throw new Error(`with ${SEED_VARIABLE}=${seed}: ${(cause as Error).message}`, { cause });
  }
});
