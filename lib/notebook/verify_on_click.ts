/**
 * A button in the dashboard's tile: verify now.
 * @module
 */

import type { Config } from "../config/load.ts";
import { reasonOf } from "../core/errors.ts";
import { verify } from "../operate/verify/verify.ts";
import type { RedisConnection } from "../redis/connection.ts";
import type { Pool } from "../targets/open.ts";
import type { Target } from "../targets/target.ts";
import { kernelMarks, type Marks } from "./charts/marks.ts";
import { full } from "./charts/scales.ts";
import { noteOf } from "./charts/tiles.ts";

/**
 * Lets the dashboard's tile "lost" be filled by a click: it asks this process, on loopback and by a random token, for a
 * verify. Once this is disposed of, or the process has ended, the tile says so.
 *
 * It is always a verify of everything, and not of what a chart shows: that would say 0 while an older document is lost, and
 * an event of the shown time may be the last of a document written long before. It compares some 90,000
 * documents a second while traffic goes on, clicks meanwhile share it, and the tile keeps the last figure, of how many
 * documents, and when it was found, until there is a newer one. A verify that fails is a mark in the charts, and changes
 * no figure.
 *
 * @example
 * ```ts
 * import { connectRedis, loadConfig, openTarget } from "writebehind";
 * import { verifyOnClick } from "writebehind/notebook";
 *
 * const config = await loadConfig();
 * await using redis = await connectRedis(config);
 * await using target = await openTarget(config);
 * await using clicks = verifyOnClick(redis, target, config, "session");
 * ```
 */
export function verifyOnClick(
  redis: RedisConnection,
  target: Target | Pool,
  config: Config,
  entity: string,
  marks: Marks = kernelMarks,
): AsyncDisposable {
  const path = `/${crypto.randomUUID()}/verify`;
  // The page comes from Jupyter's port, or from a file. Who knows the path may ask.
  const headers = { "access-control-allow-origin": "*" };
  let running: Promise<void> | null = null;
  const verifyOnce = async () => {
    marks.verifying = true;
    try {
      marks.found(await verify(redis, target, config, entity));
    } catch (error) {
      // The page shows why, until the chart is drawn again.
      marks.mark("verify failed");
      throw error;
    } finally {
      marks.verifying = false;
      running = null;
    }
  };
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, async (ask) => {
    if (ask.method !== "POST" || new URL(ask.url).pathname !== path) {
      return new Response("not here\n", { status: 404, headers });
    }
    try {
      await (running ??= verifyOnce());
      const { lost } = marks.verified!;
      return Response.json({ lost: full(lost), note: noteOf(marks.verified!) }, { headers });
    } catch (error) {
      return new Response(reasonOf(error), { status: 503, headers });
    }
  });
  server.unref();
  marks.verifyUrl = `http://127.0.0.1:${server.addr.port}${path}`;
  return {
    [Symbol.asyncDispose]: async () => {
      marks.verifyUrl = null;
      await server.shutdown();
    },
  };
}
