/** Who may write a partition. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { Buffer } from "node:buffer";
import { setTimeout as delay } from "node:timers/promises";
import { ConnectionError } from "writebehind";
import { OwnershipLostError, ParkedChangedError } from "writebehind/targets";
import { waitFor } from "../../support/servers.ts";
import {
  batch,
  type Cases,
  claimed,
  insert,
  LEASE_SECONDS,
  openWhole,
  partitionsOf,
  type Place,
  streamId,
  textsOf,
} from "./place.ts";

/** A process that owns the first partition, until it is killed. */
export async function startHolder(place: Place, leaseSeconds: number) {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      join(import.meta.dirname!, "holder.ts"),
      await place.file(),
      String(leaseSeconds),
    ],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const { value, done } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader()
    .read();
  assert(!done && value === "claimed\n", `the process has not claimed: ${value}`);
  const kill = async () => {
    child.kill("SIGKILL");
    await child.status;
  };
  return { kill };
}

export const ownership: Cases = {
  "a partition has one owner, among processes": async (place) => {
    await using one = await claimed(place, "one");
    await using other = await openWhole(place);
    assert.equal(await other.ownership.claim(one.keys, "other", LEASE_SECONDS), null);
    const [, second] = partitionsOf(place);
    assert(
      await other.ownership.claim(second!, "other", LEASE_SECONDS),
      "another partition is free",
    );
  },

  "a partition has one owner, among the sinks of one target": async (place) => {
    await using one = await claimed(place, "one");
    const { ownership } = one.target;
    assert.equal(await ownership.claim(one.keys, "other", LEASE_SECONDS), null);
    // Giving back what one has not got takes nothing from the owner.
    await ownership.release(one.keys, null);
    assert.equal(await ownership.claim(one.keys, "other", LEASE_SECONDS), null);
  },

  "its owner may claim again, which fences off its older claim": async (place) => {
    await using one = await claimed(place, "one");
    const again = await one.target.ownership.claim(one.keys, "one", LEASE_SECONDS);
    assert(again !== null && BigInt(again.epoch) > BigInt(one.claim.epoch));
    const late = batch(1, { upserts: [insert("a", "{}", 1)] });
    await assert.rejects(one.target.batches.apply(one.claim, late), OwnershipLostError);
    await assert.rejects(
      one.target.ownership.renew(one.claim, LEASE_SECONDS),
      OwnershipLostError,
    );
    assert.deepEqual(await textsOf(one.target, place, ["a"]), [null]);
    // The older claim's end is not that of the newer one.
    await using other = await openWhole(place);
    assert.equal(await other.ownership.claim(one.keys, "other", LEASE_SECONDS), null);
    await one.target.ownership.renew(again, LEASE_SECONDS);
    await one.target.batches.apply(again, late);
    assert.deepEqual(await textsOf(one.target, place, ["a"]), ["{}"]);
  },

  "released, it lets a successor in at once, which fences off the owner before": async (place) => {
    await using one = await claimed(place, "one");
    await one.target.batches.apply(one.claim, batch(1, { upserts: [insert("a", "1", 1)] }));
    await one.target.ownership.release(one.keys, one.claim);
    await using other = await claimed(place, "other");
    assert.equal(other.claim.offset, streamId(1));
    assert.equal(other.claim.witness, streamId(1));
    const late = batch(2, { upserts: [insert("b", "2", 2)] });
    await assert.rejects(one.target.batches.apply(one.claim, late), OwnershipLostError);
    await assert.rejects(
      one.target.ownership.renew(one.claim, LEASE_SECONDS),
      OwnershipLostError,
    );
    assert.deepEqual(await textsOf(other.target, place, ["a", "b"]), ["1", null]);
    // What was given back is not given back once more.
    await one.target.ownership.release(one.keys, one.claim);
    assert.equal(await one.target.ownership.claim(one.keys, "one", LEASE_SECONDS), null);
  },

  "a lease that is renewed holds": async (place) => {
    const seconds = 0.6;
    await using one = await openWhole(place);
    const [keys] = partitionsOf(place);
    const claim = await one.ownership.claim(keys!, "one", seconds);
    await using other = await openWhole(place);
    const end = Date.now() + 3 * seconds * 1000;
    while (Date.now() < end) {
      await one.ownership.renew(claim!, seconds);
      assert.equal(await other.ownership.claim(keys!, "other", seconds), null);
      await delay(seconds * 1000 / 6);
    }
  },

  "the owner stands in the standing": async (place) => {
    await using one = await claimed(place, "one");
    const held = await one.target.offsets.standing(one.keys);
    assert.equal(held.owner, "one");
    assert.equal(held.live, true);
    assert(held.leaseSeconds === null || held.leaseSeconds > LEASE_SECONDS / 2);
    await one.target.ownership.release(one.keys, one.claim);
    assert.equal((await one.target.offsets.standing(one.keys)).live, false);
  },

  "looking at a partition does not take it away": async (place) => {
    await using one = await openWhole(place);
    const [keys] = partitionsOf(place);
    let looking = true;
    const looks = (async () => {
      while (looking) await one.offsets.standing(keys!);
    })();
    for (let turn = 0; turn < 20; turn++) {
      await using target = await openWhole(place);
      const claim = await waitFor(
        () => target.ownership.claim(keys!, `owner ${turn}`, LEASE_SECONDS),
        { what: "the claim" },
      );
      await target.batches.apply(claim, batch(turn + 1));
      await target.ownership.release(keys!, claim);
    }
    looking = false;
    await looks;
  },

  "the lease ends with its process": async (place) => {
    await using target = await openWhole(place);
    const [keys] = partitionsOf(place);
    const leaseSeconds = 2;
    const holder = await startHolder(place, leaseSeconds);
    assert.equal(await target.ownership.claim(keys!, "other", leaseSeconds), null);
    assert.equal((await target.offsets.standing(keys!)).live, true);
    await holder.kill();
    const gone = await waitFor(async () => {
      const standing = await target.offsets.standing(keys!);
      return standing.live ? null : standing;
    }, { what: "the standing to say so", deadlineMs: leaseSeconds * 1000 / 4 });
    assert.equal(gone.owner, "holder");
    assert(gone.leaseSeconds === null || gone.leaseSeconds === 0, String(gone.leaseSeconds));
    const claim = await waitFor(() => target.ownership.claim(keys!, "other", leaseSeconds), {
      what: "the lease to end",
      deadlineMs: 2 * leaseSeconds * 1000,
    });
    // What the process had applied is there.
    assert.equal(claim.offset, streamId(1));
    await target.batches.apply(claim, batch(2, { upserts: [insert("b", "2", 2)] }));
    assert.deepEqual(await textsOf(target, place, ["a", "b"]), ["1", "2"]);
  },

  "a stream that went back is noted": async (place) => {
    await using one = await claimed(place);
    await one.target.batches.apply(one.claim, batch(1));
    const before = Date.now() - 1000;
    await one.target.ownership.wentBack(one.claim);
    const { wentBack, wentBackAt, witness, offset } = await one.target.offsets.standing(one.keys);
    assert.equal(wentBack, 1);
    assert(wentBackAt instanceof Date && Math.abs(wentBackAt.getTime() - before) < 60_000);
    assert.equal(witness, "0-0");
    assert.equal(offset, streamId(1));
    const again = await one.target.ownership.claim(one.keys, "a", LEASE_SECONDS);
    assert.equal(again!.witness, "0-0");
    await one.target.batches.apply(again!, batch(2));
    assert.equal((await one.target.offsets.standing(one.keys)).witness, streamId(2));
  },

  "an offset that is moved is found by the claim that runs": async (place) => {
    await using one = await claimed(place);
    await one.target.batches.apply(one.claim, batch(5, { upserts: [insert("a", "1", 5)] }));
    await using other = await openWhole(place);
    await other.ownership.moveOffset(one.keys, streamId(3), streamId(4));
    const next = batch(6, { upserts: [insert("b", "2", 6)] });
    await assert.rejects(one.target.batches.apply(one.claim, next), ParkedChangedError);
    assert.deepEqual(await textsOf(one.target, place, ["b"]), [null]);
    const again = await one.target.ownership.claim(one.keys, "a", LEASE_SECONDS);
    assert.equal(again!.offset, streamId(3));
    assert.equal(again!.witness, streamId(4));
    assert.equal((await one.target.offsets.standing(one.keys)).witness, streamId(4));
    await one.target.batches.apply(again!, next);
    assert.equal(await one.target.offsets.offset(one.keys), streamId(6));
  },

  "a target that is closed says so, whatever is asked of it": async (place) => {
    const target = await openWhole(place);
    const [keys] = partitionsOf(place);
    const free = await target.ownership.claim(keys!, "one", LEASE_SECONDS);
    assert(free);
    await target.ownership.release(keys!, free);
    await target.close();
    await target.close();
    const asked: Record<string, () => Promise<unknown>> = {
      migrate: () => target.migrate("session"),
      check: () => target.check("session"),
      claim: () => target.ownership.claim(keys!, "one", LEASE_SECONDS),
      moveOffset: () => target.ownership.moveOffset(keys!, "0-0", "0-0"),
      parkedAmong: () => target.batches.parkedAmong(free, [Buffer.from("a")]),
      offset: () => target.offsets.offset(keys!),
      standing: () => target.offsets.standing(keys!),
      identity: () => target.identities.read(keys!, [keys!.stream]),
      size: () => target.rows.size("session"),
      rows: () => target.rows.at(keys!, ["a"]),
      scan: () => target.rows.scan("session", [keys!], ""),
      letter: () => target.deadLetters.read(1),
      letters: () => target.deadLetters.list("session", "all").next(),
    };
    for (const [what, ask] of Object.entries(asked)) {
      const error = await ask().then(() => null, (error) => error);
      assert(error instanceof ConnectionError, `${what}: ${error}`);
      assert.match(error.message, /was (closed|ended) before: nothing was sent$/, what);
      assert.equal(target.kindOf(error), "configuration", "a sink would wait for it for ever");
    }
  },
};
