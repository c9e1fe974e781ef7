/** What a Redis was told. */

/** How often Redis was told a command since its statistics were reset. */
export async function callsOf(
  redis: { info(section: string): Promise<string> },
  command: string,
): Promise<number> {
  const statistics = await redis.info("commandstats");
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(statistics)?.[1] ?? 0);
}
