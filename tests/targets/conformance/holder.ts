/** A process that shares, claims the first partition and applies a batch, for a test that kills it. */

import { loadConfig, openTarget } from "writebehind";
import { allPartitions } from "writebehind/redis/keys.ts";
import { batch, insert } from "./place.ts";

const [path, leaseSeconds] = Deno.args;
const config = await loadConfig(path);
const target = await openTarget(config);
const partitions = allPartitions(config, "session");
const [keys] = partitions;
await target.migrate("session");
await target.ownership.share?.(partitions, "holder", {
  leaseSeconds: Number(leaseSeconds),
  isMember: true,
});
const claim = await target.ownership.claim(keys!, "holder", Number(leaseSeconds));
await target.batches.apply(claim!, batch(1, { upserts: [insert("a", "1", 1)] }));
console.log("claimed");
setInterval(() => target.ownership.renew(claim!, Number(leaseSeconds)), 200);
