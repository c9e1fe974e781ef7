/** A TCP proxy that breaks on demand, put between a client and a real server. */

import net from "node:net";

type Link = { client: net.Socket; upstream: net.Socket; vanished: boolean };

/** Forwards to a target until told to do worse: to open connections and new ones, until `heal()`. */
export class TcpProxy implements AsyncDisposable {
  readonly host: string;
  #target: { host: string; port: number };
  readonly #links = new Set<Link>();
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  #listener: net.Server | undefined;
  #port = 0;
  #delayMs = 0;
  #replyBytesLeft: number | undefined;
  /** Settles when bytes may flow; pending while half-open. */
  #flow: Promise<void> = Promise.resolve();
  #openFlow = () => {};

  private constructor(target: { host: string; port: number }, host: string, port: number) {
    this.#target = target;
    this.host = host;
    this.#port = port;
  }

  /**
   * Starts a proxy before `target`.
   * @param options.host where it listens. @default {"127.0.0.1"}
   * @param options.port @default {one that is free}
   */
  static async start(
    target: { host: string; port: number },
    { host = "127.0.0.1", port = 0 }: { host?: string; port?: number } = {},
  ): Promise<TcpProxy> {
    const proxy = new TcpProxy(target, host, port);
    await proxy.#listen();
    return proxy;
  }

  get port(): number {
    return this.#port;
  }
  get connections(): number {
    return this.#links.size;
  }

  /** Ends every open connection by a TCP reset; new ones are taken. */
  resetAll(): void {
    for (const { client, upstream } of this.#links) {
      client.resetAndDestroy();
      upstream.resetAndDestroy();
    }
    this.#links.clear();
  }

  /** Resets every connection and refuses new ones. */
  async refuse(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    const closed = listener && new Promise((resolve) => listener.close(resolve));
    this.resetAll();
    await closed;
  }

  /** Takes connections and bytes, and passes on nothing, as a peer that vanished does. */
  halfOpen(): void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#flow = promise;
    this.#openFlow = resolve;
  }

  /** Open connections pass on nothing ever again, and nobody is told; new ones work. */
  vanish(): void {
    for (const link of this.#links) link.vanished = true;
  }

  /** Ends every connection by a reset; new ones go to another server. */
  switchTo(target: { host: string; port: number }): void {
    this.#target = target;
    this.resetAll();
  }

  /** Delays every chunk by `ms` milliseconds, each way. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  /** Passes on `bytes` more bytes of replies, over all connections, then closes that connection; once. */
  cutReplyAfter(bytes: number): void {
    this.#replyBytesLeft = bytes;
  }

  /** Forwards again; what a half-open connection held back arrives now. */
  async heal(): Promise<void> {
    this.#delayMs = 0;
    this.#replyBytesLeft = undefined;
    this.#openFlow();
    if (!this.#listener) await this.#listen();
  }

  /** Ends all connections and stops listening. */
  async close(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    await this.refuse();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #listen(): Promise<void> {
    // Half open: one that has vanished does not even answer that the other side has ended.
    const listener = net.createServer({ allowHalfOpen: true }, (client) => this.#connect(client));
    return new Promise((resolve, reject) => {
      listener.once("error", reject);
      listener.listen(this.#port, this.host, () => {
        this.#listener = listener;
        this.#port = (listener.address() as net.AddressInfo).port;
        resolve();
      });
    });
  }

  #connect(client: net.Socket): void {
    const link = {
      client,
      upstream: net.connect({ ...this.#target, allowHalfOpen: true }),
      vanished: false,
    };
    this.#links.add(link);
    for (const [from, to] of [[client, link.upstream], [link.upstream, client]] as const) {
      from.setNoDelay(true);
      from.on("error", () => {}); // A close follows, which takes the other side down too.
      this.#forward(from, to, link);
    }
  }

  #forward(from: net.Socket, to: net.Socket, link: Link): void {
    let last = Promise.resolve();
    const inTurn = (step: () => void) => {
      const due = performance.now() + this.#delayMs;
      last = last.then(() => this.#until(due)).then(() => this.#flow).then(step);
    };
    from.on("data", (chunk: Uint8Array) =>
      inTurn(() => {
        if (!to.destroyed && !link.vanished) this.#pass(chunk, to, link);
      }));
    from.on("end", () =>
      inTurn(() => {
        if (!link.vanished) to.end();
      }));
    // What was sent before still arrives, also late, as packets do.
    from.on("close", () =>
      inTurn(() => {
        if (link.vanished) return;
        this.#links.delete(link);
        to.destroySoon();
      }));
  }

  #pass(chunk: Uint8Array, to: net.Socket, { client, upstream }: Link): void {
    if (to !== client || this.#replyBytesLeft === undefined) return void to.write(chunk);
    if (chunk.length < this.#replyBytesLeft) {
      this.#replyBytesLeft -= chunk.length;
      return void to.write(chunk);
    }
    const part = chunk.subarray(0, this.#replyBytesLeft);
    this.#replyBytesLeft = undefined;
    // Closed, not reset: a reset would take away what the client has not read yet.
    client.end(part, () => upstream.destroy());
  }

  async #until(due: number): Promise<void> {
    const ms = due - performance.now();
    if (ms <= 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#timers.add(timer);
    await promise;
    this.#timers.delete(timer);
  }
}
