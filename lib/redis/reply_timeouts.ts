/**
 * How long the calls of a connection wait for their replies.
 * @module
 */

import { Command } from "ioredis";

/** A command whose time {@linkcode ReplyTimeouts} keeps, instead of a timer of its own. */
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
 * Fails the commands whose reply does not come in time. Redis answers in order, so those that wait are a
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

  /** Lets the time of a command begin that was just sent. */
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
    // An old entry that led to younger ones would keep them from being collected soon.
    first.next = undefined;
  }

  #start(ms: number): void {
    this.#timer = setTimeout(() => this.#expire(), ms);
    // It is the socket that keeps the process alive, for as long as somebody waits.
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
