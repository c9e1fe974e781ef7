/**
 * The stage: a pipeline with traffic, its figures, and everything that may be done to it.
 * @module
 */

import type { Config } from "../../config/load.ts";
import { addressesOf } from "../../config/servers.ts";
import { reasonOf } from "../../core/errors.ts";
import type { Figures } from "../../metrics/figures.ts";
import { columnsProblem } from "../../operate/migrate_columns.ts";
import { connectRedis } from "../../redis/connect.ts";
import type { RedisConnection } from "../../redis/connection.ts";
import { allPartitions } from "../../redis/keys.ts";
import { createTable, openTarget } from "../../targets/open.ts";
import type { Target } from "../../targets/target.ts";
import {
  type Action,
  type ActionName,
  actionsOf,
  BURST,
  MAX_RATE,
  type Need,
  REFUSALS,
} from "./actions.ts";
import { Faults } from "./faults.ts";
import { Happenings, lineOf } from "./happened.ts";
import type { StageMessage, StageState } from "./messages.ts";
import { Notices } from "./notices.ts";
import { Poison } from "./poison.ts";
import type { Scene } from "./scene.ts";
import { StageServers } from "./servers.ts";
import { type SinkEvent, Sinks } from "./sinks.ts";
import { StageTraffic } from "./traffic.ts";
import { Verification } from "./verification.ts";
import { type Reachable, type StageSample, Watch } from "./watch.ts";

/** What kinds of targets are called on the page. */
const KINDS: Record<string, string> = {
  postgresql: "PostgreSQL",
  sqlite: "SQLite",
  mysql: "MySQL",
  kafka: "Kafka",
};

/** What a sink meets with several partitions within so long, in ms, is one and the same. */
const TOGETHER_MS = 1000;

/** Whose servers a stage is on. */
export interface StageOptions {
  /** Servers of somebody else's, by their configuration. @default {servers of the stage's own} */
  given?: { config: Config; configPath: string | undefined } | undefined;
  /** Whether given servers may be written to. @default {false} */
  control?: boolean;
  /** Whether the Redis of its own is a cluster. @default {false} */
  cluster?: boolean;
  /** @default {"session"} */
  entity?: string;
  /** documents a second at the beginning. @default {0} */
  rate?: number;
}

/** A pipeline on a stage. */
export class Stage implements AsyncDisposable, Scene {
  readonly servers: StageServers | null;
  readonly config: Config;
  readonly redis: RedisConnection;
  readonly target: Target;
  readonly entity: string;
  readonly happened: Happenings;
  readonly notices: Notices;
  readonly #actions: readonly Action[];
  readonly #needs: ReadonlySet<Need>;
  readonly #configPath: string | undefined;
  readonly #watch: Watch;
  readonly #faults = new Faults(this);
  readonly #poison = new Poison(this);
  readonly #verification = new Verification(this);
  readonly #listeners = new Set<(message: StageMessage) => void>();
  readonly #busy = new Map<ActionName, Promise<void>>();
  readonly #stop = new AbortController();
  readonly signal: AbortSignal = this.#stop.signal;
  readonly #beat: ReturnType<typeof setInterval>;
  readonly #deeds: Record<Exclude<ActionName, "rate">, () => Promise<void>> = {
    burst: () => this.#burst(),
    stopPostgres: () => this.#faults.stopPostgres(),
    startPostgres: () => this.#faults.startPostgres(),
    kill: () => this.#faults.kill(this.#sinks),
    cut: () => this.#faults.cut(),
    promote: () => this.#faults.promote(),
    killRedis: () => this.#faults.killRedis(),
    poison: () => this.#poison.write(),
    replay: () => this.#poison.replay(),
    verify: () => this.#verification.run(),
    reset: () => this.#reset(),
  };
  /** what sinks have met, and when last, in ms */
  readonly #met = new Map<string, number>();
  #traffic: StageTraffic | undefined;
  #looking: Promise<void> | undefined;
  #sinks: Sinks | undefined;
  #reachable: Reachable = { redis: true, target: true };

  private constructor(
    servers: StageServers | null,
    config: Config,
    redis: RedisConnection,
    target: Target,
    { given, control = false, entity = "session" }: StageOptions,
  ) {
    this.servers = servers;
    this.config = config;
    this.redis = redis;
    this.target = target;
    this.entity = entity;
    this.#actions = actionsOf(config);
    this.#configPath = servers ? servers.configPath : given?.configPath;
    this.#needs = new Set<Need>([
      "nothing",
      ...(control || servers ? ["control"] as const : []),
      ...(servers ? ["own"] as const : []),
      ...(servers?.redis.canBeCut ? ["network"] as const : []),
    ]);
    this.happened = new Happenings((happening) => this.#send({ kind: "happened", happening }));
    this.notices = new Notices(this.happened, allPartitions(config, entity).length);
    this.#watch = new Watch({
      ...{ redis, target, config, entity },
      onSample: (...read) => this.#sampled(...read),
    });
    this.#beat = setInterval(() => this.#send({ kind: "beat" }), 1000);
  }

  /**
   * Starts everything: servers, sinks and traffic of its own, or connections to given servers.
   * @throws {NoEmbeddedServerError} where this machine has no embedded servers
   * @throws {ConnectionError} where given servers cannot be reached
   */
  static async start(options: StageOptions = {}): Promise<Stage> {
    await using connecting = new AsyncDisposableStack();
    const { given, cluster, entity = "session" } = options;
    const servers = given ? null : connecting.use(await StageServers.start({ cluster, entity }));
    const config = given?.config ?? await servers!.config();
    const redis = connecting.use(await connectRedis(config));
    const target = connecting.use(await openTarget(config));
    if (servers) await createTable(target, config, entity);
    const stage = new Stage(servers, config, redis, target, options);
    connecting.move();
    try {
      await stage.#begin(options.rate ?? 0);
      return stage;
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #begin(rate: number): Promise<void> {
    this.#startSinks();
    if (this.#needs.has("control")) await this.#startTraffic(rate);
    this.#watch.start();
    if (!this.servers) this.#looking = this.#lookAtColumns();
  }

  /** Once: who changes the columns of given servers while the page is open knows it. */
  async #lookAtColumns(): Promise<void> {
    const first = this.target.describe().name;
    for (const { name } of this.config.targets) {
      if (this.signal.aborted) return;
      try {
        await using opened = name === first ? null : await openTarget(this.config, name);
        const problem = await columnsProblem(opened ?? this.target, this.entity);
        if (problem !== null) this.happened.add("wrong", `${name}: ${problem}`);
      } catch (error) {
        this.happened.add("wrong", `${name}: ${reasonOf(error)}`);
      }
    }
  }

  /** What a page begins with. */
  get hello(): StageMessage {
    return {
      kind: "hello",
      actions: this.#actions,
      maxRate: MAX_RATE,
      samples: this.#watch.samples,
      happenings: this.happened.entries,
      state: this.state,
    };
  }

  get state(): StageState {
    const { servers } = this;
    const { kind } = this.target.describe();
    return {
      own: servers !== null,
      allowed: this.#actions.filter(({ need }) => this.#needs.has(need)).map(({ name }) => name),
      busy: [...this.#busy.keys()],
      entity: this.entity,
      rate: this.#traffic?.rate ?? 0,
      asFastAsPossible: this.#traffic?.asFastAsPossible ?? null,
      failed: this.#traffic?.failed ?? 0,
      reachable: this.#reachable,
      target: KINDS[kind] ?? kind,
      targets: this.#watch.targets,
      cache: this.#watch.cache,
      postgresRuns: servers?.own.postgresRuns ?? this.#reachable.target,
      pair: servers?.redis.pair ?? null,
      masters: this.#watch.masters,
      sinks: this.#sinks?.view ?? [],
      cutUntil: this.#faults.cutUntil,
      verify: this.#verification.view,
    };
  }

  /**
   * Calls `listener` with every message.
   * @returns a function that ends this
   */
  listen(listener: (message: StageMessage) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Does something. What fails stands in the list of what happened.
   * @param value of the rate: documents a second
   * @returns why it may not be done; null where it was begun
   */
  act(name: ActionName, value = 0): string | null {
    const action = this.#actions.find((one) => one.name === name);
    if (!action) return "no such action";
    if (!this.#needs.has(action.need)) return REFUSALS[action.need];
    if (name === "rate") return this.#setRate(value);
    if (this.#busy.has(name) || this.#busy.has("reset")) return "it is under way";
    const doing = this.#deeds[name]()
      .catch((error) => {
        if (this.signal.aborted) return;
        this.happened.add("wrong", `${action.label}: ${reasonOf(error)}`);
      })
      .finally(() => {
        this.#busy.delete(name);
        this.changed();
      });
    this.#busy.set(name, doing);
    this.changed();
    return null;
  }

  #setRate(rate: number): string | null {
    if (!Number.isInteger(rate) || rate < 0 || rate > MAX_RATE) {
      return `the rate must be a whole number from 0 to ${MAX_RATE}`;
    }
    if (this.#busy.has("reset")) return "a reset is under way";
    this.#traffic?.setRate(rate);
    this.changed();
    return null;
  }

  #burst(): Promise<void> {
    this.#traffic!.burst(BURST);
    this.happened.add("note", `a burst of ${BURST} documents`, "burst");
    return Promise.resolve();
  }

  /** Everything is as after the start, except that the replica may be the primary. */
  async #reset(): Promise<void> {
    await Promise.all(
      [...this.#busy].filter(([name]) => name !== "reset").map(([, doing]) => doing),
    );
    await this.#traffic?.[Symbol.asyncDispose]();
    const sinks = this.#sinks;
    this.#sinks = undefined; // what they say until they end is of the past
    await sinks?.[Symbol.asyncDispose]();
    await this.servers!.own.startPostgres();
    await this.redis.counters.flush();
    await Promise.all(this.redis.servers.map((server) => server.flushall()));
    await this.#poison.reset();
    this.#verification.clear();
    this.#met.clear();
    this.notices.clear();
    this.#watch.clear();
    this.happened.clear();
    this.#send(this.hello);
    this.#startSinks();
    await this.#startTraffic(0);
    this.happened.add("note", "everything is empty again");
  }

  async #startTraffic(rate: number): Promise<void> {
    this.#traffic = await StageTraffic.open(
      { ...addressesOf(this.config), configPath: this.#configPath, entity: this.entity },
      (error) => this.happened.add("wrong", `the traffic has ended: ${reasonOf(error)}`),
    );
    this.#traffic.setRate(rate);
  }

  #startSinks(): void {
    if (!this.servers) return;
    const { redisUrl, databaseUrl } = this.servers.sinksAddresses;
    this.#sinks = new Sinks({
      configPath: this.#configPath,
      entity: this.entity,
      env: { REDIS_URL: redisUrl, DATABASE_URL: databaseUrl },
      onEvent: (event) => this.#sinkSaid(event),
      onChange: () => this.changed(),
      onEnded: ({ name }, code) =>
        this.happened.add("wrong", `sink ${name} ended by itself, status ${code}`),
    });
    this.#sinks.start();
  }

  #sinkSaid(event: SinkEvent): void {
    if (this.signal.aborted || this.#sinks === undefined) return;
    const { sink, stream } = event;
    if (event.event === "claimed") this.notices.claimed(sink, String(stream));
    const line = lineOf(event);
    if (line && !this.#isRepeated(event)) this.happened.add(line.tone, line.text, line.mark);
  }

  /** Whether another partition, or node, of the same sink has just met the same. */
  #isRepeated({ sink, event, error }: SinkEvent): boolean {
    if (error === undefined && event !== "reconnected" && event !== "recovered") return false;
    const what = `${sink} ${event} ${error}`;
    const last = this.#met.get(what) ?? -Infinity;
    this.#met.set(what, performance.now());
    return performance.now() - last < TOGETHER_MS;
  }

  #sampled(
    sample: StageSample | null,
    reachable: Reachable,
    figures: Figures | null,
    trouble: string | null,
  ): void {
    if (sample) this.#send({ kind: "sample", sample });
    this.notices.looked(figures, trouble);
    if (this.servers) this.notices.ownServers(sample, reachable);
    else this.notices.givenServers(figures, reachable, this.target.describe().name);
    this.#reachable = reachable;
    this.changed();
  }

  /** Sends every page the state. */
  changed(): void {
    if (!this.signal.aborted) this.#send({ kind: "state", state: this.state });
  }

  #send(message: StageMessage): void {
    for (const listener of this.#listeners) listener(message);
  }

  /** Stops everything that it started. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.signal.aborted) return;
    this.#stop.abort();
    clearInterval(this.#beat);
    this.#send({ kind: "bye" });
    await Promise.all(this.#busy.values());
    await this.#looking;
    await this.#watch[Symbol.asyncDispose]();
    await this.#traffic?.[Symbol.asyncDispose]();
    await this.#sinks?.[Symbol.asyncDispose]();
    this.redis.disconnect();
    await this.target.close();
    await this.servers?.[Symbol.asyncDispose]();
  }
}
