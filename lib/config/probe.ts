/**
 * Asks servers on this machine who they are, without a client.
 * @module
 */

import type { RecordedServer } from "./record.ts";

/** How long a server may take to answer, in ms. */
const PATIENCE_MS = 2000;

/** Whether anything listens at an address. */
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
 * Returns the INFO of the Redis on a port of 127.0.0.1, or the error that it answers, such as `-NOAUTH …`.
 * @param password without spaces or quotes; "" for none
 * @throws where nothing listens, or no answer comes in time
 */
export async function redisInfo(port: number, password: string): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  const timer = setTimeout(() => connection.close(), PATIENCE_MS);
  try {
    // QUIT makes it close the connection, which marks the end of the text.
    const login = password === "" ? "" : `AUTH ${password}\r\n`;
    await connection.write(new TextEncoder().encode(`${login}INFO\r\nQUIT\r\n`));
    return await new Response(connection.readable).text();
  } finally {
    clearTimeout(timer);
  }
}

/** Whether the INFO of a Redis comes from this very process. */
export function isInfoOf({ pid }: { pid: number }, info: string): boolean {
  return info.includes(`\nprocess_id:${pid}\r\n`);
}

/**
 * Whether a recorded Redis still serves: another one may have taken the port of one that has ended. One that
 * answers nothing is taken for the right one, so that the connection to it fails with the true reason.
 */
export async function redisServes(server: RecordedServer): Promise<boolean> {
  if (!await answers("127.0.0.1", server.port)) return false;
  const { password } = new URL(server.url);
  // The connection that follows fails by the same, and tells it.
  const info = await redisInfo(server.port, password).catch(() => undefined);
  return info === undefined || isInfoOf(server, info);
}
