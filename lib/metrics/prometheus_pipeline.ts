/**
 * What the streams and the target say, as metrics: the same of whichever process it is asked.
 * @module
 */

import type prometheus from "prom-client";
import { delay } from "../core/delay.ts";
import { asError, ConfigError, WriteBehindError } from "../core/errors.ts";
import { awaitedLater } from "../core/promises.ts";
import { partitionsOf } from "../redis/keys.ts";
import { readStandings, viewOf } from "../targets/standings.ts";
import type { Target } from "../targets/target.ts";
import { Families, serverUp, type Watched } from "./prometheus_families.ts";
import { redisMetrics } from "./prometheus_redis.ts";
import { targetMetrics } from "./prometheus_target.ts";

/** A server that has not answered by then counts as away, in ms: Prometheus waits for 10 s by default. */
const DEADLINE_MS = 2000;

/** Takes why a server said nothing to a scrape, or null where it did. */
export type ReportSilence = (server: "redis" | "target", error: Error | null) => void;

/**
 * Registers the metrics.
 * @returns reads them anew; never rejects
 */
export function pipelineMetrics(
  registry: prometheus.Registry,
  watched: Watched,
  report: ReportSilence,
): () => Promise<void> {
  const { config, entity, target } = watched;
  const { name } = target.describe();
  /** as they were seen last */
  let known = partitionsOf(config, entity, name);
  const families = new Families(registry);
  const show = targetMetrics(families, watched);
  const readRedis = redisMetrics(families, watched);
  const up = serverUp(families);
  return async () => {
    const partitions = known;
    const ended = new AbortController();
    const late = delay(DEADLINE_MS, ended.signal)
      .then(() => new WriteBehindError(`no answer within ${DEADLINE_MS} ms`));
    const inTime = <Read>(reading: Promise<Read>) => Promise.race([reading.catch(asError), late]);
    // Read once: where both servers answer, all that the target says is of one moment.
    const standings = new Map(
      partitions.map((keys) => [keys.stream, target.offsets.standing(keys, { waits: false })]),
    );
    const standing: Target["offsets"]["standing"] = (keys, options) => {
      const first = standings.get(keys.stream);
      standings.delete(keys.stream);
      // Asked again where the stream was trimmed meanwhile.
      return first ?? target.offsets.standing(keys, options);
    };
    const viewing = awaitedLater(viewOf(watched.redis, config, entity, name));
    void viewing.then((view) => known = view.partitions, () => {}); // others, once it was repartitioned
    const readBoth = async () => {
      const view = await viewing;
      const read = await readStandings(watched.redis, { standing }, view, { waits: false });
      return () => view.partitions.forEach((keys, index) => show.figures(keys, read[index]!));
    };
    const [ofTheTarget, ofRedis, ofBoth, differences] = await Promise.all([
      inTime(Promise.all(standings.values())),
      inTime(viewing.then(({ partitions }) => readRedis(partitions))),
      inTime(readBoth()),
      inTime(Promise.resolve(target.columns?.differences(entity))),
    ]);
    ended.abort();
    report("target", failureOf(ofTheTarget));
    // Where the target is silent, nothing can be read of both.
    report(
      "redis",
      failureOf(ofRedis) ?? (ofTheTarget instanceof Error ? null : failureOf(ofBoth)),
    );
    families.reset();
    if (!(ofRedis instanceof Error)) ofRedis();
    // There are others than the configuration says: they answer, and are not known.
    const isMisfit = ofRedis instanceof ConfigError;
    if (!(ofBoth instanceof Error)) ofBoth();
    else if (!(ofTheTarget instanceof Error) && !isMisfit) {
      partitions.forEach((keys, index) => show.standing(keys, ofTheTarget[index]!));
    }
    if (Array.isArray(differences)) show.columns(differences);
    up.set({ server: "target", target: name }, ofTheTarget instanceof Error ? 0 : 1);
    up.set({ server: "redis" }, ofRedis instanceof Error && !isMisfit ? 0 : 1);
  };
}

const failureOf = (read: unknown) => read instanceof Error ? read : null;
