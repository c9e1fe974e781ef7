/** Who is there to share the partitions: for targets that offer it. */

import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import type { Shares, Target } from "writebehind/targets";
import { waitFor } from "../../support/servers.ts";
import { startHolder } from "./ownership.ts";
import { type Cases, LEASE_SECONDS, openWhole, partitionsOf } from "./place.ts";

/** What a member has told last, before it goes. */
const SHORT_SECONDS = 0.5;

export const sharing: Cases = {
  "processes that share know of each other, and of who has gone": async (place) => {
    const partitions = partitionsOf(place);
    const [a, b] = partitions.map(({ stream }) => stream);
    const share = (
      { ownership }: Target,
      process: string,
      { isMember = true, leaseSeconds = LEASE_SECONDS } = {},
    ) => ownership.share!(partitions, process, { leaseSeconds, isMember });
    const members = ({ members }: Shares) => members.toSorted();
    await using one = await openWhole(place);
    await one.migrate("session");
    assert.deepEqual(members(await share(one, "one")), ["one"]);
    {
      await using two = await openWhole(place);
      assert.deepEqual(members(await share(two, "two")), ["one", "two"]);
      await one.ownership.claim(partitions[0]!, "one", LEASE_SECONDS);
      await two.ownership.claim(partitions[1]!, "two", LEASE_SECONDS);
      assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"], [b, "two"]]));
      // It says so itself; what it has is still its own.
      assert.deepEqual(members(await share(two, "two", { isMember: false })), ["one"]);
      assert.deepEqual((await share(one, "one")).owners, new Map([[a, "one"], [b, "two"]]));
      await share(two, "two", { leaseSeconds: SHORT_SECONDS });
    }
    // Its lease ends with time, if not before, and what it had is nobody's.
    await waitFor(async () => {
      const { owners, members } = await share(one, "one");
      return !owners.has(b!) && members.length === 1;
    }, { what: "its end" });
    // There are never more places than there were leases of members at once.
    await delay(SHORT_SECONDS * 1000);
    await using three = await openWhole(place);
    assert.deepEqual(members(await share(three, "three")), ["one", "three"]);
    const left = await place.query("SELECT 1 FROM writebehind_lease WHERE stream LIKE 'member%'");
    assert.equal(left.length, 2);
  },

  "a process that is killed is no member any more, long before its lease ends": async (place) => {
    const leaseSeconds = 120;
    const partitions = partitionsOf(place);
    await using one = await openWhole(place);
    await one.migrate("session");
    const look = () => one.ownership.share!(partitions, "one", { leaseSeconds, isMember: true });
    const holder = await startHolder(place, leaseSeconds);
    const { members, owners } = await look();
    assert.deepEqual(members.toSorted(), ["holder", "one"]);
    assert.deepEqual(owners, new Map([[partitions[0]!.stream, "holder"]]));
    await holder.kill();
    await waitFor(async () => {
      const { members, owners } = await look();
      return members.length === 1 && owners.size === 0;
    }, { what: "its end", deadlineMs: leaseSeconds * 1000 / 4 });
  },
};
