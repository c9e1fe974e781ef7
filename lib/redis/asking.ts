/**
 * Asking several servers the same at once, where one may be down, or not know yet what the others do.
 * @module
 */

import type { Trust } from "../config/tls.ts";
import { Redis, tlsOptions } from "./client.ts";

/** A server that has not answered in time. */
export class SilenceError extends Error {}

/** How long all servers together may take to answer, in ms. */
const PATIENCE_MS = 2000;
/** How long the rest may take once most have answered, in ms: one of them may know more. */
const REST_MS = 200;

/** How long all servers together may take to answer, in ms. */
export const patienceOf = ({ redis }: { redis: { command_timeout_ms: number } }): number =>
  Math.min(redis.command_timeout_ms, PATIENCE_MS);

/** What was answered, and why some have not. */
export interface Answers<Place, Told> {
  told: Told[];
  failed: Map<Place, unknown>;
}

/**
 * Asks all at once; once most have answered, waits for the others a moment only.
 * @param ask asks one of them, until its signal is aborted
 * @param patienceMs how long all may take together, in ms
 * @param signal ends the asking
 */
export async function askAll<Place, Told>(
  places: readonly Place[],
  ask: (place: Place, signal: AbortSignal) => Promise<Told>,
  patienceMs: number,
  signal?: AbortSignal,
): Promise<Answers<Place, Told>> {
  const told: Told[] = [];
  const failed = new Map<Place, unknown>(
    places.map((one) => [one, new SilenceError(`no answer within ${patienceMs} ms`)]),
  );
  const ended = new AbortController();
  const end = () => ended.abort();
  signal?.addEventListener("abort", end, { once: true });
  const timers = [setTimeout(end, patienceMs)];
  const asking = places.map(async (one) => {
    try {
      told.push(await ask(one, ended.signal));
      failed.delete(one);
    } catch (error) {
      if (!ended.signal.aborted) failed.set(one, error);
    }
    if (told.length > places.length / 2 && !ended.signal.aborted) {
      timers.push(setTimeout(end, REST_MS));
    }
  });
  const enough = new Promise((resolve) => ended.signal.addEventListener("abort", resolve));
  await Promise.race([Promise.all(asking), enough]);
  for (const timer of timers) clearTimeout(timer);
  end();
  signal?.removeEventListener("abort", end);
  return { told, failed };
}

/** Where a client goes, and who it is there. */
export interface Login {
  host: string;
  port: number;
  username: string | null;
  password: string | null;
  /** `null`: without TLS */
  trust: Trust | null;
}

/**
 * A client for a few questions, not connected yet.
 * @param patienceMs how long a connection may take, in ms
 */
export function askingClient(
  { host, port, username, password, trust }: Login,
  patienceMs: number,
  retryStrategy: (times: number) => number | null,
): Redis {
  return new Redis({
    host,
    port,
    ...(username === null ? {} : { username }),
    ...(password === null ? {} : { password }),
    ...(trust === null ? {} : tlsOptions(trust)),
    // Replies in the shapes of RESP2 are the same for all versions of servers.
    protocol: 2,
    lazyConnect: true,
    enableReadyCheck: false,
    autoResubscribe: false,
    connectTimeout: patienceMs,
    disconnectTimeout: 100,
    maxRetriesPerRequest: 0,
    retryStrategy,
    connectionName: "writebehind",
  });
}

/**
 * Asks on a connection of its own.
 * @param signal ends it
 */
export async function askOn<Told>(
  client: Redis,
  signal: AbortSignal,
  question: (client: Redis) => Promise<Told>,
): Promise<Told> {
  const end = () => client.disconnect();
  let reason: unknown;
  client.on("error", (error) => reason ??= error);
  signal.addEventListener("abort", end, { once: true });
  try {
    await client.connect();
    return await question(client);
  } catch (error) {
    throw reason ?? error;
  } finally {
    signal.removeEventListener("abort", end);
    end();
  }
}
