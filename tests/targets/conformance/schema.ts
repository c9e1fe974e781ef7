/** The tables, and what a target says of itself. */

import assert from "node:assert/strict";
import { ConfigError, ConnectionError } from "writebehind";
import {
  all,
  batch,
  type Cases,
  claimed,
  insert,
  LEASE_SECONDS,
  openWhole,
  partitionsOf,
  textsOf,
} from "./place.ts";

export const schema: Cases = {
  "where nothing has run, all is at its beginning": async (place) => {
    await using target = await openWhole(place);
    const [keys] = partitionsOf(place);
    assert.equal(await target.offsets.offset(keys!), "0-0");
    assert.deepEqual(await target.offsets.standing(keys!), {
      offset: "0-0",
      events: 0,
      witness: "0-0",
      wentBack: 0,
      wentBackAt: null,
      owner: null,
      live: false,
      leaseSeconds: null,
      parked: 0,
      waitsFor: null,
    });
  },

  "checking says that the tables are missing, and makes none": async (place) => {
    await using target = await openWhole(place);
    for (let times = 0; times < 2; times++) {
      await assert.rejects(target.check("session"), (error) => {
        assert(error instanceof ConnectionError);
        assert.match(error.message, /are not there yet: start a sink once/);
        return true;
      });
    }
    await target.migrate("session");
    await target.check("session");
  },

  "what a target reads it sees once another has made it": async (place) => {
    await using reader = await openWhole(place);
    const [keys] = partitionsOf(place);
    assert.equal(await reader.offsets.offset(keys!), "0-0");
    await using own = await claimed(place);
    await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    assert.deepEqual(await textsOf(reader, place, ["a"]), ["1"]);
    assert.equal((await reader.offsets.standing(keys!)).events, 1);
  },

  "a table that had rows and is away is not made anew": async (place) => {
    {
      await using own = await claimed(place);
      await own.target.batches.apply(own.claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    }
    await using target = await openWhole(place);
    const [first, second] = partitionsOf(place);
    const assertMissed = () =>
      assert.rejects(target.ownership.claim(second!, "b", LEASE_SECONDS), (error) => {
        assert(error instanceof ConfigError);
        assert.match(error.message, /^The table \S*sessions is gone, and the offset of stream:/);
        return true;
      });
    await place.query("ALTER TABLE sessions RENAME TO away");
    await assertMissed(); // by a partition that had none
    await place.query("UPDATE writebehind_offset SET last_id = '0-0'");
    await assertMissed(); // after Redis was emptied
    await place.query("ALTER TABLE away RENAME TO sessions");
    assert.notEqual(await target.ownership.claim(first!, "b", LEASE_SECONDS), null);
    assert.deepEqual(await textsOf(target, place, ["a"]), ["1"]);
  },

  "the tables are made once, by as many as come": async (place) => {
    const targets = await Promise.all(Array.from({ length: 5 }, () => openWhole(place)));
    try {
      await Promise.all(targets.map((target) => target.migrate("session")));
      const [target] = targets;
      const [keys] = partitionsOf(place);
      const claim = await target!.ownership.claim(keys!, "a", 30);
      await target!.batches.apply(claim!, batch(1, { upserts: [insert("a", "1", 1)] }));
      await Promise.all(targets.map((target) => target.migrate("session")));
      assert.deepEqual(await textsOf(target!, place, ["a"]), ["1"]);
    } finally {
      await Promise.all(targets.map((target) => target.close()));
    }
  },

  "tables of a newer version are refused": async (place) => {
    await using target = await openWhole(place);
    await target.migrate("session");
    await place.outdate();
    const [keys] = partitionsOf(place);
    const refused = /newer version of writebehind/;
    await assert.rejects(target.migrate("session"), refused);
    await assert.rejects(target.check("session"), refused);
    await assert.rejects(target.ownership.claim(keys!, "a", 30), refused);
    assert.deepEqual(await all(target.deadLetters.list("session", "all")), []);
  },

  "a target describes itself, without secrets": async (place) => {
    await using target = await openWhole(place);
    const { name, kind, address } = target.describe();
    const [configured] = place.config.targets;
    assert.equal(name, configured!.name);
    assert.equal(kind, configured!.kind);
    assert(address.length > 10, address);
    const { password } = place.config.postgresql;
    if (password) assert(!address.includes(password));
  },

  "errors of others have a kind too": async (place) => {
    await using target = await openWhole(place);
    const kinds = {
      transient: [
        new Error("LOADING Redis is loading the dataset in memory"),
        Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" }),
      ],
      configuration: [new Error("WRONGTYPE Operation against a key"), new TypeError("a defect"), 7],
    };
    for (const [kind, errors] of Object.entries(kinds)) {
      for (const error of errors) assert.equal(target.kindOf(error), kind, String(error));
    }
  },
};
