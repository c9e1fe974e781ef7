/**
 * How long the calls of a connection wait for their replies.
 * @module
 */

import { Command } from "ioredis";

/** A command that {@linkcode ReplyTimeouts} watches, instead of a timer of its own. */
export class WatchedCommand extends Command {
  override setTimeout(): void {}
}

/** A command that was sent. */
interface Sent {
  command: WatchedCommand;
  /** when its reply is overdue, in ms of `performance.now()` */
  due: number;
  next: Sent | undefined;
}

/**
 * Fails the commands whose reply does not come in time. Redis answers in order, so the waiting ones are a
 * queue, and one timer is enough for it. ioredis's `commandTimeout` starts and clears one for every command,
 * which costs a tenth of a write.
 */
export class ReplyTimeouts {
  #ms: number;
  #first: Sent | undefined;
  #last: Sent | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param ms how long a reply may take */
  constructor(ms: number) {
    this.#ms = ms;
  }

  /** Starts the time of a command that was just sent. */
  add(command: WatchedCommand): void {
    this.#forgetSettled();
    const sent = { command, due: performance.now() + this.#ms, next: undefined };
    if (this.#last) this.#last.next = sent;
    else this.#first = sent;
    this.#last = sent;
    if (this.#timer === undefined) this.#start(this.#ms);
  }

  #forgetSettled(): void {
    while (this.#first?.command.isSettled) this.#drop(this.#first);
  }

  #drop(first: Sent): void {
    this.#first = first.next;
    if (first.next === undefined) this.#last = undefined;
    // An old entry that points to younger ones would delay their garbage collection.
    first.next = undefined;
  }

  #start(ms: number): void {
    this.#timer = setTimeout(() => this.#expire(), ms);
    // The socket keeps the process alive as long as somebody waits; the timer must not.
    Deno.unrefTimer(this.#timer);
  }

  #expire(): void {
    this.#timer = undefined;
    for (;;) {
      this.#forgetSettled();
      const first = this.#first;
      if (first === undefined) return;
      const left = first.due - performance.now();
      if (left > 0) return this.#start(left);
      this.#drop(first);
      first.command.reject(new Error("Command timed out"));
    }
  }
}
