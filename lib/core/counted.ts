/**
 * Numbers of things in sentences.
 * @module
 */

/**
 * A number of things for people: `1 event`, `2 entries`.
 * @param thing what one of them is called
 * @param shown how the number is written
 */
export function counted(count: number, thing: string, shown: string = String(count)): string {
  return `${shown} ${count === 1 ? thing : manyOf(thing)}`;
}

function manyOf(thing: string): string {
  if (/[^aeiou]y$/.test(thing)) return `${thing.slice(0, -1)}ies`;
  return thing.endsWith("ch") ? `${thing}es` : `${thing}s`;
}
