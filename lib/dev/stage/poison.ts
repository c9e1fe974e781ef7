/**
 * Documents that PostgreSQL refuses, and what makes good again what they did.
 * @module
 */

// @ts-types="@types/pg"
import pg from "pg";
import { WriteBehindError } from "../../core/errors.ts";
import { insertDocument } from "../../documents/write.ts";
import { listDeadLetters } from "../../operate/dead_letters.ts";
import { replayDeadLetters } from "../../operate/replay.ts";
import { ownServers, type Scene } from "./scene.ts";
import mendSql from "./mend.sql" with { type: "text" };
import poisonSql from "./poison.sql" with { type: "text" };
import resetSql from "./reset.sql" with { type: "text" };

/** The table's rule, which some documents break. */
export class Poison {
  readonly #scene: Scene;
  /** whether the table has the rule now */
  #ruled = false;
  /** documents so far: each has an id of its own */
  #written = 0;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  /** Writes a document that is refused. */
  async write(): Promise<void> {
    const { redis, config, entity, happened } = this.#scene;
    if (!this.#ruled) await this.#sql(poisonSql);
    this.#ruled = true;
    const id = `broken-${++this.#written}`;
    const document = { user_id: "user_0", device_type: "web", device_model: "broken" };
    await insertDocument(redis, config, entity, document, id);
    happened.add(
      "break",
      `document ${id} was written, which PostgreSQL refuses: a CHECK of the table`,
    );
  }

  /** Takes away the rule, of servers of its own, and applies again what was parked. */
  async replay(): Promise<void> {
    const { servers, redis, target, config, entity, happened, signal } = this.#scene;
    if (servers) {
      await this.#sql(mendSql);
      this.#ruled = false;
    }
    let parked = 0;
    for await (const _ of listDeadLetters(target, config, entity)) parked++;
    if (parked === 0) return happened.add("note", "nothing is parked: nothing to replay");
    const { applied, gone, failed } = await replayDeadLetters(
      redis,
      target,
      config,
      entity,
      { all: true },
      { signal },
    );
    const rest = failed > 0 ? `, ${failed} stay parked` : "";
    happened.add(
      failed > 0 ? "wrong" : "mend",
      `parked documents replayed: ${applied + gone}${rest}`,
      "replayed",
    );
  }

  /** Empties the tables, and takes away the rule. */
  async reset(): Promise<void> {
    await this.#sql(resetSql);
    this.#ruled = false;
    this.#written = 0;
  }

  async #sql(statements: string): Promise<void> {
    const { own } = ownServers(this.#scene);
    if (!own.postgresRuns) throw new WriteBehindError("PostgreSQL is stopped: start it first");
    const client = new pg.Client(own.databaseUrl);
    client.on("error", () => {}); // the query rejects as well
    await client.connect();
    try {
      await client.query(statements);
    } finally {
      await client.end();
    }
  }
}
