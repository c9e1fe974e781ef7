/**
 * The stage: a pipeline with traffic, its figures, and everything that may be done to it.
 * @module
 */

import pg from "pg";
import { type Config, configWith, loadConfig } from "../../config/load.ts";
import { addressesOf, serverOverrides } from "../../config/servers.ts";
import { delay } from "../../core/delay.ts";
import { reasonOf, WriteBehindError } from "../../core/errors.ts";
import { insertDocument } from "../../documents/write.ts";
import { listDeadLetters } from "../../operate/dead_letters.ts";
import { replayDeadLetters } from "../../operate/replay.ts";
import { verify } from "../../operate/verify/verify.ts";
import type { Figures } from "../../metrics/figures.ts";
import { connectRedis, type RedisConnection } from "../../redis/connection.ts";
import { createTable, openTarget } from "../../targets/open.ts";
import type { Target } from "../../targets/target.ts";
import { type ActionName, ACTIONS, BURST, CUT_MS, MAX_RATE, type Need } from "./actions.ts";
import { Happenings, lineOf } from "./happened.ts";
import type { StageMessage, StageState, VerifyView } from "./messages.ts";
import { Notices } from "./notices.ts";
import { StageServers } from "./servers.ts";
import { type SinkEvent, Sinks } from "./sinks.ts";
import { StageTraffic } from "./traffic.ts";
import { type Reachable, type StageSample, Watch } from "./watch.ts";
import mendSql from "./mend.sql" with { type: "text" };
import poisonSql from "./poison.sql" with { type: "text" };
import resetSql from "./reset.sql" with { type: "text" };

/** Whose servers a stage is on. */
export interface StageOptions {
  /** Servers of somebody else's, by their configuration. @default {servers of the stage's own} */
  given?: { config: Config; configPath: string | undefined };
  /** Whether given servers may be written to. @default {false} */
  control?: boolean;
  /** @default {"session"} */
  entity?: string;
  /** documents a second at the beginning. @default {0} */
  rate?: number;
}

const NEVER_VERIFIED: VerifyView = {
  running: false,
  progress: 0,
  lost: null,
  documents: 0,
  parked: 0,
  behind: 0,
  at: null,
};
/** A pipeline on a stage. */
export class Stage implements AsyncDisposable {
  /** null on given servers */
  readonly servers: StageServers | null;
  readonly config: Config;
  readonly redis: RedisConnection;
  readonly target: Target;
  readonly #entity: string;
  readonly #needs: ReadonlySet<Need>;
  readonly #configPath: string | undefined;
  readonly #watch: Watch;
  readonly #happened: Happenings;
  readonly #notices: Notices;
  readonly #listeners = new Set<(message: StageMessage) => void>();
  readonly #busy = new Map<ActionName, Promise<void>>();
  readonly #stop = new AbortController();
  readonly #beat: ReturnType<typeof setInterval>;
  #traffic: StageTraffic | undefined;
  #sinks: Sinks | undefined;
  #verify = NEVER_VERIFIED;
  #cutUntil: number | null = null;
  #poisoned = 0;
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
    this.#entity = entity;
    this.#configPath = servers ? servers.configPath : given?.configPath;
    this.#needs = new Set<Need>([
      "nothing",
      ...(control || servers ? ["control"] as const : []),
      ...(servers ? ["own"] as const : []),
    ]);
    this.#happened = new Happenings((happening) => this.#send({ kind: "happened", happening }));
    this.#notices = new Notices(this.#happened);
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
    const { given, entity = "session" } = options;
    const servers = given ? null : connecting.use(await StageServers.start());
    const config = given?.config ?? await configOf(servers!);
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
  }

  /** What a page begins with. */
  get hello(): StageMessage {
    return {
      kind: "hello",
      actions: ACTIONS,
      maxRate: MAX_RATE,
      samples: this.#watch.samples,
      happenings: this.#happened.entries,
      state: this.state,
    };
  }

  get state(): StageState {
    const { servers } = this;
    return {
      own: servers !== null,
      allowed: ACTIONS.filter(({ need }) => this.#needs.has(need)).map(({ name }) => name),
      busy: [...this.#busy.keys()],
      entity: this.#entity,
      rate: this.#traffic?.rate ?? 0,
      failed: this.#traffic?.failed ?? 0,
      reachable: this.#reachable,
      postgresRuns: servers?.postgresRuns ?? this.#reachable.target,
      primary: servers?.primary.port ?? null,
      replica: servers?.replica.port ?? null,
      sinks: this.#sinks?.view ?? [],
      cutUntil: this.#cutUntil,
      verify: this.#verify,
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
    const action = ACTIONS.find((one) => one.name === name);
    if (!action) return "no such action";
    if (!this.#needs.has(action.need)) {
      return action.need === "own"
        ? "these servers are not the stage's own, and are not broken"
        : "these servers are given, and only read: start with --control";
    }
    if (name === "rate") return this.#setRate(value);
    if (this.#busy.has(name) || this.#busy.has("reset")) return "it is under way";
    const doing = this.#do(name)
      .catch((error) => {
        if (this.#stop.signal.aborted) return;
        this.#happened.add("wrong", `${action.label}: ${reasonOf(error)}`);
      })
      .finally(() => {
        this.#busy.delete(name);
        this.#changed();
      });
    this.#busy.set(name, doing);
    this.#changed();
    return null;
  }

  async #do(name: Exclude<ActionName, "rate">): Promise<void> {
    switch (name) {
      case "burst":
        this.#traffic!.burst(BURST);
        return this.#happened.add("note", `a burst of ${BURST} documents`, "burst");
      case "stopPostgres":
        return await this.#stopPostgres();
      case "startPostgres":
        return await this.#startPostgres();
      case "kill":
        return await this.#kill();
      case "cut":
        return await this.#cut();
      case "poison":
        return await this.#poison();
      case "replay":
        return await this.#replay();
      case "promote":
        return await this.#promote();
      case "verify":
        return await this.#verifyAll();
      case "reset":
        return await this.#reset();
    }
  }

  #setRate(rate: number): string | null {
    if (!Number.isInteger(rate) || rate < 0 || rate > MAX_RATE) {
      return `the rate must be a whole number from 0 to ${MAX_RATE}`;
    }
    if (this.#busy.has("reset")) return "a reset is under way";
    this.#traffic?.setRate(rate);
    this.#changed();
    return null;
  }

  async #stopPostgres(): Promise<void> {
    if (!this.servers!.postgresRuns) return;
    await this.servers!.stopPostgres();
    this.#happened.add("break", "PostgreSQL was stopped, like a crash", "PostgreSQL down");
  }

  async #startPostgres(): Promise<void> {
    if (this.servers!.postgresRuns) return;
    await this.servers!.startPostgres();
    this.#happened.add("mend", "PostgreSQL runs again", "PostgreSQL up");
    this.#notices.faultIsOver();
  }

  async #kill(): Promise<void> {
    const at = Date.now();
    const killed = await this.#sinks!.kill();
    if (!killed) {
      throw new WriteBehindError("no sink runs at the moment; one comes back in seconds");
    }
    const { name, pid, state } = killed;
    if (state === "owner" || state === "retrying") this.#notices.killed(name, at);
    this.#happened.add("break", `kill -9 of sink ${name}, process ${pid}`, `sink ${name} killed`);
  }

  async #cut(): Promise<void> {
    this.servers!.cutNetwork();
    this.#cutUntil = Date.now() + CUT_MS;
    const text = `the network between the sinks and Redis is cut for ${CUT_MS / 1000} s`;
    this.#happened.add("break", text, "network cut");
    this.#changed();
    await delay(CUT_MS, this.#stop.signal);
    await this.#mendNetwork();
  }

  async #mendNetwork(): Promise<void> {
    if (this.#cutUntil === null) return;
    this.#cutUntil = null;
    await this.servers!.mendNetwork();
    this.#happened.add("mend", "the network is there again", "network back");
    this.#notices.faultIsOver();
  }

  async #poison(): Promise<void> {
    if (this.#poisoned === 0) await this.#sql(poisonSql);
    const id = `broken-${++this.#poisoned}`;
    const document = { user_id: "user_0", device_type: "web", device_model: "broken" };
    await insertDocument(this.redis, this.config, this.#entity, document, id);
    this.#happened.add(
      "break",
      `document ${id} was written, which PostgreSQL refuses: a CHECK of the table`,
    );
  }

  async #replay(): Promise<void> {
    if (this.servers) {
      await this.#sql(mendSql);
      this.#poisoned = 0;
    }
    const { redis, target, config } = this;
    let parked = 0;
    for await (const _ of listDeadLetters(target, config, this.#entity)) parked++;
    if (parked === 0) return this.#happened.add("note", "nothing is parked: nothing to replay");
    const { signal } = this.#stop;
    const all = { all: true } as const;
    const { applied, gone, failed } = await replayDeadLetters(
      redis,
      target,
      config,
      this.#entity,
      all,
      { signal },
    );
    const rest = failed > 0 ? `, ${failed} stay parked` : "";
    this.#happened.add(
      failed > 0 ? "wrong" : "mend",
      `parked documents replayed: ${applied + gone}${rest}`,
      "replayed",
    );
  }

  async #promote(): Promise<void> {
    const before = this.servers!.primary.port;
    await this.servers!.promote();
    const now = this.servers!.primary.port;
    this.#happened.add(
      "break",
      `the replica on port ${now} is the primary now, and the one on port ${before} its replica`,
      "replica promoted",
    );
    this.#notices.faultIsOver();
  }

  async #verifyAll(): Promise<void> {
    const show = (change: Partial<VerifyView>) => {
      this.#verify = { ...this.#verify, ...change };
      this.#changed();
    };
    show({ running: true, progress: 0 });
    try {
      let shown = 0;
      const report = await verify(this.redis, this.target, this.config, this.#entity, {
        signal: this.#stop.signal,
        onProgress: (compared, about) => {
          const progress = Math.min(1, compared / Math.max(1, about));
          if (progress - shown < 0.02) return;
          show({ progress: shown = progress });
        },
      });
      const { mismatches: lost, parked, behind } = report.counts;
      const { documents } = report;
      show({ lost, documents, parked, behind, at: Date.now() });
      const others = [parked > 0 ? `${parked} parked` : "", behind > 0 ? `${behind} behind` : ""]
        .filter(Boolean).map((text) => `, ${text}`).join("");
      this.#happened.add(
        lost === 0 ? "mend" : "wrong",
        `verified: ${documents.toLocaleString("en")} documents, ${lost} lost${others}`,
        lost === 0 ? "verified: 0 lost" : `verified: ${lost} lost`,
      );
    } finally {
      show({ running: false });
    }
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
    await this.servers!.startPostgres();
    await this.redis.counters.flush();
    await this.redis.flushall();
    await this.#sql(resetSql);
    this.#verify = NEVER_VERIFIED;
    this.#notices.clear();
    this.#poisoned = 0;
    this.#watch.clear();
    this.#happened.clear();
    this.#send(this.hello);
    this.#startSinks();
    await this.#startTraffic(0);
    this.#happened.add("note", "everything is empty again");
  }

  async #sql(statements: string): Promise<void> {
    if (!this.servers!.postgresRuns) {
      throw new WriteBehindError("PostgreSQL is stopped: start it first");
    }
    const client = new pg.Client(this.servers!.postgres.url);
    client.on("error", () => {}); // the query rejects as well
    await client.connect();
    try {
      await client.query(statements);
    } finally {
      await client.end();
    }
  }

  async #startTraffic(rate: number): Promise<void> {
    this.#traffic = await StageTraffic.open(
      { ...addressesOf(this.config), configPath: this.#configPath, entity: this.#entity },
      (error) => this.#happened.add("wrong", `the traffic has ended: ${reasonOf(error)}`),
    );
    this.#traffic.setRate(rate);
  }

  #startSinks(): void {
    if (!this.servers) return;
    const { redisUrl, databaseUrl } = this.servers.sinksAddresses;
    this.#sinks = new Sinks({
      configPath: this.#configPath,
      entity: this.#entity,
      env: { REDIS_URL: redisUrl, DATABASE_URL: databaseUrl },
      onEvent: (event) => this.#sinkSaid(event),
      onChange: () => this.#changed(),
      onEnded: ({ name }, code) =>
        this.#happened.add("wrong", `sink ${name} ended by itself, status ${code}`),
    });
    this.#sinks.start();
  }

  #sinkSaid(event: SinkEvent): void {
    if (this.#stop.signal.aborted || this.#sinks === undefined) return;
    const { sink } = event;
    if (event.event === "claimed") this.#notices.claimed(sink, String(event.stream));
    const line = lineOf(event);
    if (line) this.#happened.add(line.tone, line.text, line.mark);
  }

  #sampled(sample: StageSample | null, reachable: Reachable, figures: Figures | null): void {
    if (sample) this.#send({ kind: "sample", sample });
    if (this.servers) this.#notices.ownServers(sample, reachable);
    else this.#notices.givenServers(figures, reachable, this.target.describe().name);
    this.#reachable = reachable;
    this.#changed();
  }

  #changed(): void {
    if (!this.#stop.signal.aborted) this.#send({ kind: "state", state: this.state });
  }

  #send(message: StageMessage): void {
    for (const listener of this.#listeners) listener(message);
  }

  /** Stops everything that it started. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    clearInterval(this.#beat);
    this.#send({ kind: "bye" });
    await Promise.all(this.#busy.values());
    await this.#watch[Symbol.asyncDispose]();
    await this.#traffic?.[Symbol.asyncDispose]();
    await this.#sinks?.[Symbol.asyncDispose]();
    this.redis.disconnect();
    await this.target.close();
    await this.servers?.[Symbol.asyncDispose]();
  }
}

async function configOf(servers: StageServers): Promise<Config> {
  return configWith(await loadConfig(servers.configPath), serverOverrides(servers.addresses));
}
