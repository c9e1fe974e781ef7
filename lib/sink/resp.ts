/**
 * A small Redis client for the sink's reads. A drain is bound by how fast entries become buffers: ioredis
 * takes several times the CPU for the same reply (`deno task bench`, row 1), since it decodes value by value
 * through closures and copies each. Here a reply is parsed once, in place, and its values are views.
 * Protocol: RESP2, https://redis.io/docs/latest/develop/reference/protocol-spec/
 * @module
 */

import { Buffer } from "node:buffer";
import type { Config } from "../config.ts";
import { ConnectionError, reasonOf } from "../errors.ts";

/** A reply: texts are views of bytes. */
export type Reply = Buffer | number | null | Reply[] | ReplyError;

/** An error that Redis answered. */
export class ReplyError extends Error {
  override name = "ReplyError";
}

const CHUNK_BYTES = 1 << 20;
/** Free bytes below which the next read goes to a new chunk. */
const LOW_BYTES = 1 << 14;
const CR = 13;

/** One connection; commands go one after the other. A failure closes it: open another one. */
export class RespConnection {
  #connection: Deno.Conn;
  #timeoutMs: number;
  #chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  #start = 0;
  #end = 0;
  /** bytes that the value at the start is known to need */
  #wanted = 0;
  #closed: Error | null = null;
  /** the call before, which has to have its reply first */
  #before: Promise<unknown> = Promise.resolve();

  private constructor(connection: Deno.Conn, timeoutMs: number) {
    this.#connection = connection;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Connects, authenticates and selects the database.
   * @throws {ConnectionError} with the address and the reason
   */
  static async open(config: Config): Promise<RespConnection> {
    const { host: hostname, port, tls, username, password, db, command_timeout_ms } = config.redis;
    const connecting: Promise<Deno.Conn> = tls
      ? Deno.connectTls({ hostname, port })
      : Deno.connect({ hostname, port });
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`no connection after ${command_timeout_ms} ms`));
        connecting.then((connection) => connection.close(), () => {});
      }, command_timeout_ms);
    });
    try {
      const connection = await Promise.race([connecting, late]);
      if ("setNoDelay" in connection) (connection as Deno.TcpConn).setNoDelay(true);
      const self = new RespConnection(connection, command_timeout_ms);
      const hello = [["CLIENT", "SETNAME", "writebehind-reader"]];
      if (db !== 0) hello.unshift(["SELECT", String(db)]);
      if (password !== null) {
        hello.unshift(username === null ? ["AUTH", password] : ["AUTH", username, password]);
      }
      try {
        for (const command of hello) await self.call(command);
      } catch (error) {
        self.close();
        throw error;
      }
      return self;
    } catch (cause) {
      throw new ConnectionError(
        `Cannot connect to Redis at ${hostname}:${port}: connection failed: ${reasonOf(cause)}`,
        { cause },
      );
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Sends a command and waits for its reply.
   * @param patienceMs how much longer than usual the reply may take, in ms
   * @throws {ReplyError} where Redis answers an error
   */
  call(command: (string | Uint8Array)[], patienceMs = 0): Promise<Reply> {
    const reply = this.#before.then(() => this.#call(command, patienceMs));
    this.#before = reply.catch(() => {});
    return reply;
  }

  async #call(command: (string | Uint8Array)[], patienceMs: number): Promise<Reply> {
    if (this.#closed) throw this.#closed;
    const timer = setTimeout(
      () => this.#fail(new ConnectionError("Connection to Redis lost: no reply in time")),
      this.#timeoutMs + patienceMs,
    );
    try {
      await this.#write(encode(command));
      const reply = await this.#read();
      if (reply instanceof ReplyError) throw reply;
      return reply;
    } catch (error) {
      if (error instanceof ReplyError) throw error;
      this.#fail(
        new ConnectionError(`Connection to Redis lost: ${reasonOf(error)}`, { cause: error }),
      );
      throw this.#closed;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Closes the connection; a call under way fails. */
  close(): void {
    this.#fail(new ConnectionError("Connection to Redis closed"));
  }

  #fail(reason: Error): void {
    if (this.#closed) return;
    this.#closed = reason;
    this.#connection.close();
  }

  async #write(bytes: Uint8Array): Promise<void> {
    while (bytes.length > 0) bytes = bytes.subarray(await this.#connection.write(bytes));
  }

  /** Reads until one whole reply is there. Arrays that are not full yet wait on a stack. */
  async #read(): Promise<Reply> {
    const open: { items: Reply[]; missing: number }[] = [];
    for (;;) {
      let value: Reply | undefined = this.#parse(open);
      while (value === undefined) {
        await this.#more();
        value = this.#parse(open);
      }
      if (value === OPENED) continue;
      for (;;) {
        const array = open.at(-1);
        if (array === undefined) return value;
        array.items.push(value);
        if (--array.missing > 0) break;
        open.pop();
        value = array.items;
      }
    }
  }

  /** Parses the value at the start; `undefined` where it is not all there yet. */
  #parse(open: { items: Reply[]; missing: number }[]): Reply | undefined {
    const buffer = this.#chunk;
    const lineEnd = this.#lineEnd();
    if (lineEnd < 0) return undefined;
    const type = buffer[this.#start]!;
    const next = lineEnd + 2;
    switch (type) {
      case 0x24: { // $ bulk string
        const length = this.#number(lineEnd);
        if (length < 0) {
          this.#start = next;
          return null;
        }
        if (this.#end < next + length + 2) {
          this.#wanted = next + length + 2 - this.#start;
          return undefined;
        }
        this.#start = next + length + 2;
        return buffer.subarray(next, next + length);
      }
      case 0x2a: { // * array
        const length = this.#number(lineEnd);
        this.#start = next;
        if (length < 0) return null;
        if (length === 0) return [];
        open.push({ items: [], missing: length });
        return OPENED;
      }
      case 0x3a: { // : integer
        const value = this.#number(lineEnd);
        this.#start = next;
        return value;
      }
      case 0x2b: { // + simple string
        const text = buffer.subarray(this.#start + 1, lineEnd);
        this.#start = next;
        return text;
      }
      case 0x2d: { // - error
        const error = new ReplyError(buffer.toString("utf8", this.#start + 1, lineEnd));
        this.#start = next;
        return error;
      }
      default:
        throw new Error(`an unknown kind of reply: ${String.fromCharCode(type)}`);
    }
  }

  #lineEnd(): number {
    for (let at = this.#start; at < this.#end - 1; at++) if (this.#chunk[at] === CR) return at;
    return -1;
  }

  #number(lineEnd: number): number {
    let at = this.#start + 1;
    const negative = this.#chunk[at] === 0x2d;
    if (negative) at++;
    let value = 0;
    for (; at < lineEnd; at++) value = value * 10 + this.#chunk[at]! - 0x30;
    return negative ? -value : value;
  }

  /** Reads more bytes. Views of what was parsed keep the old chunk alive, so it is never written again. */
  async #more(): Promise<void> {
    const rest = this.#end - this.#start;
    const free = this.#chunk.length - this.#end;
    const wanted = this.#wanted - rest;
    if (free < Math.max(LOW_BYTES, wanted)) {
      const chunk = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, this.#wanted + LOW_BYTES));
      this.#chunk.copy(chunk, 0, this.#start, this.#end);
      this.#chunk = chunk;
      this.#start = 0;
      this.#end = rest;
    }
    this.#wanted = 0;
    const count = await this.#connection.read(this.#chunk.subarray(this.#end));
    if (count === null) throw new Error("Redis closed it");
    this.#end += count;
  }
}

/** Says that an array has begun: its values come next. */
const OPENED: Reply[] = [];

function encode(command: (string | Uint8Array)[]): Buffer {
  const parts: Buffer[] = [Buffer.from(`*${command.length}\r\n`)];
  for (const argument of command) {
    const bytes = typeof argument === "string" ? Buffer.from(argument) : Buffer.from(argument);
    parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, END);
  }
  return Buffer.concat(parts);
}

const END = Buffer.from("\r\n");
