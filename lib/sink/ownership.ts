/**
 * Owning one partition: claiming it, keeping its lease, noticing when it is lost or its stream has gone back, and
 * giving it back.
 * @module
 */

import type { Config } from "../config/load.ts";
import { delay } from "../core/delay.ts";
import { asError, ConfigError, RepartitioningError, WriteBehindError } from "../core/errors.ts";
import { failpoint } from "../core/failpoints.ts";
import type { RedisConnection } from "../redis/connection.ts";
import { type PartitionKeys, partitionsOf } from "../redis/keys.ts";
import { readRegistration, register, type TargetState } from "../redis/registrations.ts";
import { checkCached, checkShape } from "../redis/shape.ts";
import { keepIndex } from "../search/index.ts";
import {
  type Claim,
  HEARTBEATS,
  OwnershipLostError,
  ParkedChangedError,
  type Target,
} from "../targets/target.ts";
import { identify } from "./belonging.ts";
import { type Goal, goalOf, isReached } from "./goal.ts";
import { lookEachMs } from "./limits.ts";
import type { StreamReader } from "./reader.ts";
import type { PartitionReport } from "./report.ts";
import { hasWitness } from "./rewind.ts";
import { DueTimes } from "./due.ts";
import type { Settler } from "./settler.ts";
import type { Sharing } from "./sharing.ts";
import { sameDatabase } from "./same_database.ts";
import { Trimmer } from "./trimmer.ts";
import { moveBack, rewindStream, type Scope, settlerOf, WentBackError } from "./went_back.ts";

/** How often a standby looks whether its partition is free, in ms. */
const STANDBY_MS = 250;

/** Why a target is not carried on to, and what ends that. */
const REFUSALS: Record<Exclude<TargetState, "active">, { why: string; command: string }> = {
  paused: { why: "is paused", command: "resume" },
  filling: { why: "is being added, or that was stopped half way", command: "add" },
  detached: { why: "was so far behind that it has lost its place", command: "add" },
  removed: { why: "was removed", command: "add" },
};

/** An operator has paused the target. */
export class PausedError extends ConfigError {}

/** Another process is to have the partition: its share is smaller. */
export class GivenError extends WriteBehindError {}

/** A partition that was claimed, and what follows its batches. */
export interface Owned {
  claim: Claim;
  trimmer: Trimmer;
  /** where the target is a cache's source */
  settler: Settler | null;
}

/** How long the last words to Redis may take, in ms. */
const LAST_MS = 1000;

/** Waits for the last words to Redis: one that does not answer keeps nobody from ending. */
async function briefly(words: Promise<unknown>): Promise<void> {
  const said = new AbortController();
  await Promise.race([words, delay(LAST_MS, said.signal)]);
  said.abort();
}

/** Whether nobody has claimed a partition between two claims of the same process: each raises the epoch by one. */
function follows({ epoch }: Claim, before: Claim | null): boolean {
  return before !== null && BigInt(epoch) === BigInt(before.epoch) + 1n;
}

/** The ownership of one partition, one claim after the other. */
export class PartitionOwnership {
  /** for what is not the partition's alone: its own connection leads to one node of a cluster */
  #redis: RedisConnection;
  #target: Target;
  #config: Config;
  #keys: PartitionKeys;
  #reader: StreamReader;
  #report: PartitionReport;
  /** with whom the partitions are shared; `null` where whoever is first has them */
  #sharing: Sharing | null = null;
  /** the claim that is in use */
  #claim: Claim | null = null;
  /** the newest claim, even if a failure has ended its use: its lease is given back at the end */
  #lease: Claim | null = null;
  /** by `performance.now()`, as are the next two: clocks are set */
  #renewedAt = -Infinity;
  /** when the table was looked at */
  #lookedAt = -Infinity;
  /** the same of the owner that is waited for */
  #namesakeAt = -Infinity;
  /** whether an operator has paused the target, as was seen last */
  #paused = false;
  /** why the table is not the claim's any more */
  #problem: Error | null = null;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** of the newest claim that was begun */
  #trimmer: Trimmer | null = null;
  /** of the newest claim that was begun wholly */
  #due: DueTimes | null = null;
  /** that claim */
  #owned: Owned | null = null;

  constructor(
    redis: RedisConnection,
    target: Target,
    config: Config,
    keys: PartitionKeys,
    reader: StreamReader,
    report: PartitionReport,
  ) {
    this.#redis = redis;
    this.#target = target;
    this.#config = config;
    this.#keys = keys;
    this.#reader = reader;
    this.#report = report;
  }

  /** Whether the partition was claimed, and was neither lost nor given back since. */
  get holds(): boolean {
    return this.#lease !== null;
  }

  /** From now on, the partition is one of those that are shared. */
  share(sharing: Sharing): void {
    this.#sharing = sharing;
  }

  /**
   * Takes the partition; waits while another sink owns it, or is to have it.
   * @param follow whether to wait for ever; else until the owner has drained what was there
   * @returns `null` where the owner has drained it, or where the signal was aborted
   * @throws {PausedError} without `follow`, once the partition was given back
   */
  async take(follow: boolean, signal: AbortSignal): Promise<Owned | null> {
    let goal: Goal | undefined;
    while (!signal.aborted) {
      if (this.#owned !== null && this.#claim === this.#owned.claim) return this.#owned;
      if (this.#paused && await this.#isPaused()) {
        if (this.#lease !== null) await this.#giveBack();
        this.#report.paused();
        if (!follow) throw new PausedError(this.#refusal("paused"));
        await delay(STANDBY_MS, signal);
        continue;
      }
      if (this.#sharing && !await this.#sharing.allows(this.#keys.stream)) {
        this.#sharing.note(this.#keys.stream, { isMine: false });
        if (this.#lease !== null && await this.#giveBack()) this.#report.released();
        this.#report.standby();
        await this.#lookForNamesake();
        await delay(STANDBY_MS, signal);
        continue;
      }
      const { lease_seconds } = this.#config.write_behind;
      const { process } = this.#report.place;
      const claim = await this.#target.ownership.claim(this.#keys, process, lease_seconds);
      // Another may have had it, and lost it, while this one could not ask.
      if (claim && !follows(claim, this.#lease)) this.#report.interrupted();
      this.#lease = claim;
      this.#sharing?.note(this.#keys.stream, { isMine: claim !== null });
      if (claim !== null) {
        await failpoint?.("claimed");
        try {
          return await this.#begin(claim);
        } catch (error) {
          // What is configured wrong here may be right for another sink: nobody else is kept out.
          if (error instanceof ConfigError || error instanceof RepartitioningError) {
            await this.#giveBack();
          }
          if (!(error instanceof PausedError)) throw error;
          continue;
        }
      }
      this.#report.standby();
      await this.#lookForNamesake();
      // The owner trims the stream, so an entry that our trimmer misses means nothing.
      this.#trimmer = null;
      if (!follow) {
        const { offsets } = this.#target;
        const redis = await this.#reader.connection();
        goal ??= await goalOf(redis, offsets, this.#keys);
        const { is } = await isReached(redis, offsets, this.#keys, goal);
        if (is === "reached") return null;
        if (is === "old") goal = undefined;
      }
      await delay(STANDBY_MS, signal);
    }
    return null;
  }

  /** @throws {ConfigError} where the owner that is waited for is the sink of another target */
  async #lookForNamesake(): Promise<void> {
    if (this.#config.targets.length === 1) return;
    // To stand by is usual where partitions are shared, and there may be many.
    if (performance.now() - this.#namesakeAt < lookEachMs(this.#keys)) return;
    this.#namesakeAt = performance.now();
    const redis = await this.#reader.connection();
    const standing = await this.#target.offsets.standing(this.#keys, { waits: false });
    const { target } = this.#report.place;
    const problem = await sameDatabase(redis, this.#config, this.#keys, target, standing);
    if (problem !== null) throw new ConfigError(problem);
  }

  /** Begins with a partition that was claimed: the stream must hold the last event that the target applied. */
  async #begin(claim: Claim): Promise<Owned> {
    // A new connection for each begin, so that what is checked here is the server that is read from.
    this.#reader.close();
    const redis = await this.#reader.connection();
    const { entity, shape } = this.#keys;
    const options = { lookAgain: false, expects: shape, meanwhile: "draining" } as const;
    // In a cluster, another node may have the record.
    const asked = this.#config.redis.cluster === null ? redis : this.#redis;
    await checkShape(asked, this.#config, entity, options);
    const known = await readRegistration(redis, this.#keys, this.#report.place.target);
    this.#checkState(known?.state ?? "active");
    await checkCached(redis, this.#keys);
    const { lease_seconds } = this.#config.write_behind;
    clearInterval(this.#heartbeat);
    this.#heartbeat = setInterval(() => void this.#renew(claim), lease_seconds * 1000 / HEARTBEATS);
    this.#claim = claim;
    this.#renewedAt = performance.now();
    this.#problem = null;
    const scope = this.#scope(redis);
    await moveBack(scope, claim);
    if (claim.madeAnew.length > 0) this.#report.madeAnew(claim.madeAnew);
    const { doubts, lostCommits, note } = await identify(redis, this.#target, this.#config, claim);
    if (lostCommits) this.#report.offsetWentBack(lostCommits);
    for (const reason of doubts) this.#report.doubted(reason);
    // A trim may have missed a witness older than the one that the target names now.
    if (this.#trimmer?.witnessMissing || !await hasWitness(redis, this.#keys, claim.witness)) {
      await rewindStream(scope, claim);
    }
    await note();
    await this.#register(redis, claim);
    await this.#keepIndex();
    const trimmer = this.#trimmer = await Trimmer.begin(
      this.#config,
      this.#reader,
      claim,
      this.#report,
    );
    const settler = settlerOf(scope, claim);
    // One partition is enough to tell it, and it holds up nothing.
    const [first] = partitionsOf(this.#config, entity, this.#report.place.target);
    const differences = this.#keys.partition === first?.partition
      ? await this.#target.columns?.differences(this.#keys.entity)
      : undefined;
    this.#report.claimed(claim);
    this.#report.columns(differences ?? []);
    await failpoint?.("begun");
    void this.#due?.stop();
    this.#due = new DueTimes(this.#reader, this.#keys, this.#report);
    return this.#owned = { claim, trimmer, settler };
  }

  #scope(own: RedisConnection): Scope {
    return {
      redis: this.#redis,
      own,
      target: this.#target,
      config: this.#config,
      reader: this.#reader,
      report: this.#report,
    };
  }

  /** The partition may be on another node than at its last claim. Events go on without an index. */
  async #keepIndex(): Promise<void> {
    try {
      await keepIndex(this.#redis, this.#config, this.#keys);
      this.#report.over("indexNotKept");
    } catch (error) {
      this.#report.trouble("indexNotKept", error);
    }
  }

  /** Tells how far the target is, so that nothing that it lacks is trimmed. */
  async #register(redis: RedisConnection, { keys, offset, witness }: Claim): Promise<void> {
    const { target: name } = this.#report.place;
    const onFull = this.#config.targets.find((target) => target.name === name)?.on_full ?? "stop";
    const registration = { name, state: "active" as const, offset, witness, onFull };
    const registered = await register(redis, keys, registration, {
      keeping: ["paused", "filling", "detached", "removed"],
    });
    this.#checkState(registered!.state);
  }

  async #isPaused(): Promise<boolean> {
    const redis = await this.#reader.connection();
    const known = await readRegistration(redis, this.#keys, this.#report.place.target);
    return this.#paused = known?.state === "paused";
  }

  /** @throws {PausedError | ConfigError} where the target may not be carried on to */
  #checkState(state: TargetState): void {
    if (state === "active") return;
    const refusal = this.#refusal(state);
    if (state !== "paused") throw new ConfigError(refusal);
    this.#paused = true;
    throw new PausedError(refusal);
  }

  #refusal(state: Exclude<TargetState, "active">): string {
    const { target, stream } = this.#report.place;
    const { why, command } = REFUSALS[state];
    return `the target ${target} ${why} (${stream}): run deno task target ${command} ${target}`;
  }

  /** Never rejects: a batch whose claim was lost meanwhile fails by itself. */
  async #renew(claim: Claim): Promise<void> {
    const { lease_seconds } = this.#config.write_behind;
    try {
      await this.#target.ownership.renew(claim, lease_seconds);
      this.#renewedAt = performance.now();
      this.#report.over("leaseNotRenewed");
      if (performance.now() - this.#lookedAt < lookEachMs(this.#keys)) return;
      this.#lookedAt = performance.now();
      const problem = await this.#target.identities.look(claim);
      if (problem !== null && this.#claim === claim) this.#problem = new ConfigError(problem);
    } catch (error) {
      if (this.#claim !== claim) return;
      if (error instanceof ParkedChangedError) {
        this.#problem = error;
        return;
      }
      const lost = error instanceof OwnershipLostError;
      if (lost) {
        this.#claim = this.#lease = null;
        this.#sharing?.note(this.#keys.stream, { isMine: false });
        // From now on, entries may be missing because the next owner has trimmed them.
        void this.#trimmer?.stop();
      } else this.#report.trouble("leaseNotRenewed", error);
      // If its connection has silently died, the statement would hang until the system gives up.
      if (lost || performance.now() - this.#renewedAt > lease_seconds * 1000) {
        this.#target.ownership.abandon(claim, asError(error));
      }
    }
  }

  /**
   * Checks that a claim still holds.
   * @throws {OwnershipLostError} it does not
   * @throws {WentBackError} it does, and its stream has gone back
   * @throws {ConfigError} it does, and its table is another one, or was emptied, or the target was removed
   * @throws {PausedError} it does, and an operator has paused the target
   * @throws {GivenError} it does, and another process is to have the partition
   */
  check({ claim, trimmer }: Owned): void {
    const { stream } = this.#keys;
    if (this.#claim !== claim) throw new OwnershipLostError(`${stream} was taken`);
    if (this.#sharing?.keeps(stream) === false) throw new GivenError(`${stream} is given away`);
    if (this.#problem !== null) throw this.#problem;
    this.#checkState(trimmer.state);
    if (trimmer.witnessMissing) {
      throw new WentBackError(`${stream} has gone back: what was applied last is gone`);
    }
  }

  /** Ends the use of the claim but keeps its lease: only a new claim has the true offset. */
  end(): void {
    this.#claim = null;
    void this.#trimmer?.stop();
    void this.#due?.stop();
    clearInterval(this.#heartbeat);
    this.#reader.close();
  }

  /** Gives the partition back and closes the connections. Never rejects. */
  async release(): Promise<void> {
    clearInterval(this.#heartbeat);
    await briefly(Promise.all([this.#trimmer?.stop(), this.#due?.stop()]));
    this.#reader.close();
    await this.#reportLast();
    const lease = this.#lease;
    this.#claim = this.#lease = null;
    this.#report.idle();
    await failpoint?.("releasing");
    if (await this.#release(lease) && lease !== null) this.#report.released();
  }

  /** Gives back what was claimed, since nothing can be done with it here, or another is to have it. */
  async #giveBack(): Promise<boolean> {
    clearInterval(this.#heartbeat);
    void this.#due?.stop();
    await this.#reportLast();
    const lease = this.#lease;
    this.#claim = this.#lease = null;
    this.#sharing?.note(this.#keys.stream, { isMine: false });
    return await this.#release(lease);
  }

  /** Tells what this process has applied last, where nobody has applied more since. Never rejects. */
  async #reportLast(): Promise<void> {
    const owned = this.#owned;
    if (!this.#redis.sends || owned === null || this.#lease?.offset !== owned.claim.offset) return;
    await briefly(owned.trimmer.finish(this.#redis));
  }

  async #release(lease: Claim | null): Promise<boolean> {
    try {
      await this.#target.ownership.release(this.#keys, lease);
      return true;
    } catch (error) {
      // The next owner has to wait for the lease to end: that costs time, nothing else.
      this.#report.trouble("releaseFailed", error);
      return false;
    }
  }
}
