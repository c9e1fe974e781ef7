/**
 * Asking servers on this machine who they are, without a client and without a password.
 * @module
 */

import type { RecordedServer } from "./record.ts";

/** How long a server may take to tell who it is, in ms. */
const PATIENCE_MS = 2000;

/** Tells whether anything listens at an address. */
export async function answers(hostname: string, port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname, port })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return false; // Refused, or no such host.
  }
}

/**
 * Returns all that the Redis on a port of 127.0.0.1 tells of itself (INFO), or the error that it answers,
 * such as `-NOAUTH …`.
 * @throws where nothing listens, or nothing is said in time
 */
export async function redisInfo(port: number): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const timer = setTimeout(() => connection.close(), PATIENCE_MS);
  try {
    // After QUIT it closes the connection, which is where the text ends.
    await connection.write(new TextEncoder().encode("INFO\r\nQUIT\r\n"));
    return await new Response(connection.readable).text();
  } finally {
    clearTimeout(timer);
  }
}

/** Tells whether what a Redis tells of itself comes from this very process. */
export function isInfoOf({ pid }: { pid: number }, info: string): boolean {
  return info.includes(`\nprocess_id:${pid}\r\n`);
}

/**
 * Tells whether a recorded Redis still serves. Another one may have taken the port of one that has ended; one
 * that says nothing at all is taken for the right one, so that it is the connection that fails.
 */
export async function redisServes(server: RecordedServer): Promise<boolean> {
  if (!await answers("127.0.0.1", server.port)) return false;
  const info = await redisInfo(server.port).catch(() => undefined);
  return info === undefined || isInfoOf(server, info);
}
