/** What the embedded servers share: a process on a port of 127.0.0.1 that gets ready, or is killed. */

import { delay } from "../../core/delay.ts";
import {
  type Account,
  endProcess,
  freePort,
  isAlive,
  type ProcessIdentity,
  signalProcess,
  startDetached,
} from "./processes.ts";

/** The only address that the servers listen on. */
export const HOST = "127.0.0.1";

const BIND_ATTEMPTS = 5;
/** How long a server may take to be ready, in ms. */
const READY_MS = 60_000;
/** How long a server that did not get ready may take to end, in ms, before it is killed. */
const GIVE_UP_MS = 10_000;

/** A server that this project started. */
export interface Server extends ProcessIdentity {
  readonly host: string;
  readonly port: number;
  /** The address with its password: never to be shown. */
  readonly url: string;
  /** The folder with its data and its log. */
  readonly dir: string;
  /** Shuts it down in order, or by SIGKILL when it does not obey; does nothing when it has ended. */
  stop(): Promise<void>;
  /** Sends a signal; SIGKILL returns when the process has ended. */
  kill(signal?: Deno.Signal): Promise<void>;
}

/** How a kind of server is started. */
export interface ServerKind {
  /** Its name in messages. */
  readonly title: string;
  /** The file that takes its output, of this start only. */
  readonly log: string;
  readonly cwd: string;
  readonly env?: Record<string, string>;
  readonly account?: Account | undefined;
  /** The program and its arguments. */
  command(port: number): readonly string[];
  /** Returns why it is not ready, such as `is still loading`; `undefined` when it is. */
  lacks(server: ProcessIdentity, port: number): Promise<string | undefined>;
  /** What its log says if another process took the port first. */
  readonly portTaken: string;
  /** Whether, by its log, a predecessor that is about to end is in its way. */
  mustWait?(log: string): Promise<boolean>;
  /** The signal that ends it at once. */
  readonly giveUp: Deno.Signal;
}

/** Options of a server of either kind. */
export interface ServerOptions {
  /** The server's own folder; made where it is missing. Starting again on it keeps its data. */
  dir: string;
  /** The port to prefer; another is taken where it is busy. */
  port?: number | undefined;
}

/**
 * Starts a server and waits until it is ready.
 *
 * @param preferredPort the port to try first
 * @throws {Error} when it does not get ready, with the end of its log
 */
export async function startServer(
  kind: ServerKind,
  preferredPort: number | undefined,
): Promise<ProcessIdentity & { port: number }> {
  const deadline = performance.now() + READY_MS;
  for (let attempt = 1;;) {
    const port = freePort(attempt === 1 ? preferredPort : undefined);
    await Deno.writeTextFile(kind.log, ""); // so that only lines of this start explain its failure
    if (kind.account) await Deno.chown(kind.log, kind.account.uid, kind.account.gid);
    const server = await startDetached(kind.command(port), kind);
    const failure = await becomesReady(kind, server, port, deadline);
    if (!failure) return { ...server, port };
    await endProcess(server, kind.giveUp, GIVE_UP_MS);
    const log = await Deno.readTextFile(kind.log);
    if (performance.now() < deadline && await kind.mustWait?.(log)) await delay(50);
    else if (log.includes(kind.portTaken) && attempt < BIND_ATTEMPTS) attempt++;
    else {
      const tail = log.trimEnd().split("\n").slice(-15).join("\n") || "(it is empty)";
      throw new Error(
        `${kind.title} on ${HOST}:${port} ${failure}; the end of its log:\n${tail}`,
      );
    }
  }
}

/** Waits until the server is ready; returns what is wrong if it does not get ready. */
async function becomesReady(
  kind: ServerKind,
  server: ProcessIdentity,
  port: number,
  deadline: number,
): Promise<string | undefined> {
  for (;;) {
    const lacks = await kind.lacks(server, port);
    if (!lacks) return undefined;
    if (!isAlive(server)) return "ended at once";
    if (performance.now() > deadline) return `${lacks} after its deadline`;
    await delay(20);
  }
}

/** Sends a signal to a server; returns for SIGKILL when it has ended. */
export async function killServer(
  server: ProcessIdentity,
  signal: Deno.Signal = "SIGKILL",
): Promise<void> {
  if (signal === "SIGKILL") await endProcess(server, signal, 0);
  else signalProcess(server, signal);
}
