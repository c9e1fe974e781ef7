/** What a network does to those who rely on it. */

import { setTimeout as delay } from "node:timers/promises";
import type { Random } from "writebehind";
import { below } from "writebehind/core/random.ts";
import type { TcpProxy } from "writebehind/dev/servers/proxy.ts";

/** Breaks a proxy for a while, at most a second or so. */
export type Fault = (proxy: TcpProxy, random: Random) => Promise<void>;

/** The kinds of faults; each ends with a proxy that forwards again. */
export const NETWORK_FAULTS: Record<string, Fault> = {
  reset: (proxy) => Promise.resolve(proxy.resetAll()),
  refused: async (proxy, random) => {
    await proxy.refuse();
    await delay(300 * random());
    await proxy.heal();
  },
  "half-open": async (proxy, random) => {
    proxy.halfOpen();
    await delay(1200 * random());
    await proxy.heal();
  },
  vanished: (proxy) => Promise.resolve(proxy.vanish()),
  delayed: async (proxy, random) => {
    proxy.delay(500);
    await delay(1000 * random());
    await proxy.heal();
  },
  cut: async (proxy, random) => {
    proxy.cutReplyAfter(1 + below(random, 400));
    await delay(200);
    await proxy.heal();
  },
};
