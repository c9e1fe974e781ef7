/**
 * Locks: groups as consumers have them, of which the leader holds the lock. The brokers see to it that a group has one
 * leader, that it stays the same while it lives, and that it is gone when its session has ended.
 * @module
 */

import {
  describeGroupsV5,
  heartbeatV4,
  joinGroupV9,
  leaveGroupV5,
  syncGroupV5,
} from "@platformatic/kafka";
import { ConfigError } from "../../core/errors.ts";
import { Client, type KafkaAddress } from "./client.ts";
import { answersOf, isAnswer, nested } from "./errors.ts";

const PROTOCOL = "writebehind";
/** The shortest session that brokers allow, if their settings are left as they are, in ms. */
const SHORTEST_MS = 6000;
/** What an answer may take besides the session that it may wait for, in ms. */
const ANSWER_MS = 10_000;
const LONGEST_SESSION_MS = 1_800_000;

/** The client's id of a member: brokers make a member's id of it. */
const OWNER = "owner";

/** Whether anybody holds a lock, or waits for it. */
export async function isHeld(client: Client, group: string): Promise<boolean> {
  const answer = await client.coordinator("group", group, describeGroupsV5.api, [group], false);
  const { groupState, members } = answer.groups[0]!;
  return groupState !== "Dead" && members.length > 0;
}

/** A lock that is held. */
export class GroupLock {
  #client: Client;
  #group: string;
  #owner: string;
  #sessionMs: number;
  #member = "";
  #generation = -1;

  private constructor(client: Client, group: string, owner: string, sessionMs: number) {
    this.#client = client;
    this.#group = group;
    this.#owner = owner;
    this.#sessionMs = sessionMs;
  }

  /**
   * Takes a lock.
   * @param sessionMs how long it holds without {@linkcode GroupLock.keep}
   * @returns `null` where another holds it
   */
  static async take(
    address: KafkaAddress,
    group: string,
    owner: string,
    sessionMs: number,
  ): Promise<GroupLock | null> {
    const session = Math.min(LONGEST_SESSION_MS, Math.ceil(sessionMs));
    // A connection of its own: joining may wait, and what is asked behind it would too.
    const client = new Client(address, Math.max(session, SHORTEST_MS) + ANSWER_MS);
    const lock = new GroupLock(client, group, owner, session);
    let taken = false;
    try {
      taken = await lock.#join();
      if (!taken) await lock.#leave();
      return taken ? lock : null;
    } finally {
      if (!taken) await client.close();
    }
  }

  /** @returns whether it has the lock now */
  async #join(): Promise<boolean> {
    for (;;) {
      try {
        const { memberId, generationId, leader, protocolName } = await this.#client.coordinator(
          "group",
          this.#group,
          joinGroupV9.api,
          this.#group,
          this.#sessionMs,
          this.#sessionMs,
          this.#member,
          null,
          PROTOCOL,
          [{ name: OWNER, metadata: Buffer.from(this.#owner) }],
          null,
        );
        this.#member = memberId;
        this.#generation = generationId;
        if (leader !== memberId) return false;
        await this.#client.coordinator(
          "group",
          this.#group,
          syncGroupV5.api,
          this.#group,
          generationId,
          memberId,
          null,
          PROTOCOL,
          protocolName,
          [{ memberId, assignment: Buffer.from(this.#owner) }],
        );
        return true;
      } catch (error) {
        const [answer] = answersOf(error);
        if (answer === "MEMBER_ID_REQUIRED") this.#member = memberIn(error);
        else if (answer === "UNKNOWN_MEMBER_ID") this.#member = "";
        else if (answer === "INVALID_SESSION_TIMEOUT") this.#lengthen(error);
        else if (answer !== "REBALANCE_IN_PROGRESS") throw error;
      }
    }
  }

  #lengthen(cause: unknown): void {
    if (this.#sessionMs >= SHORTEST_MS) {
      throw new ConfigError(
        `the brokers allow no session of ${this.#sessionMs} ms: set write_behind.lease_seconds between their ` +
          "group.min.session.timeout.ms and group.max.session.timeout.ms",
        { cause },
      );
    }
    this.#sessionMs = SHORTEST_MS;
  }

  /** Says that the holder lives. @returns whether it still has the lock */
  async keep(): Promise<boolean> {
    try {
      await this.#client.coordinator(
        "group",
        this.#group,
        heartbeatV4.api,
        this.#group,
        this.#generation,
        this.#member,
        null,
      );
      return true;
    } catch (error) {
      // Another has come, and will find that it is not the leader.
      if (isAnswer(error, "REBALANCE_IN_PROGRESS")) return await this.#join();
      if (isAnswer(error, "UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "FENCED_INSTANCE_ID")) {
        return false;
      }
      throw error;
    }
  }

  /** Gives the lock back. */
  async leave(): Promise<void> {
    try {
      await this.#leave();
    } finally {
      await this.#client.close();
    }
  }

  async #leave(): Promise<void> {
    try {
      await this.#client.coordinator("group", this.#group, leaveGroupV5.api, this.#group, [
        { memberId: this.#member, groupInstanceId: null, reason: null },
      ]);
    } catch (error) {
      if (!isAnswer(error, "UNKNOWN_MEMBER_ID")) throw error;
    }
  }
}

/** The member's id that the broker wants to be asked with. */
function memberIn(error: unknown): string {
  for (const { response } of nested(error)) {
    if (response) return (response as { memberId: string }).memberId;
  }
  throw error;
}
