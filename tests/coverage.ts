/** How much of each room of lib/ the tests run, from the profiles that `deno test --coverage` leaves. */

import { join } from "node:path";
import { pathToFileURL } from "node:url";

const LIB = join(import.meta.dirname!, "..", "lib");

/** The sums over all rooms; it sorts behind their names. */
const ALL = "\uffff";

/** Sums of one room: what can be run, and what was. */
interface Sums {
  lines: number;
  linesRun: number;
  branches: number;
  branchesRun: number;
}

/** The share of all lines that a run of all tests is to reach, in percent. */
export const LEAST = 93;

/** What the tests ran of lib/. */
export interface Coverage {
  /** A table, a line each. */
  table: string[];
  /** The share of all lines, in percent. */
  total: number;
}

/**
 * Sums by room: the lines and branches of each room, and how many of them the tests ran. What no
 * test loads is not among them; processes that the tests start are, unless they were killed.
 */
export async function coverageByRoom(profile: string): Promise<Coverage> {
  // A process that was killed while it wrote its profile has left a part of it, or nothing.
  for await (const { name } of Deno.readDir(profile)) {
    const path = join(profile, name);
    if (!await isWhole(path)) await Deno.remove(path);
  }
  const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
    args: ["coverage", "--lcov", `--include=^${pathToFileURL(LIB).href}/`, profile],
  }).output();
  if (!success) {
    return { table: [`no coverage: ${new TextDecoder().decode(stderr)}`], total: 0 };
  }
  const rooms = roomsOf(new TextDecoder().decode(stdout));
  const rows = [...rooms].sort(([a], [b]) => a.localeCompare(b)).map(([room, sums]) => [
    room === ALL ? "all" : room,
    String(sums.lines),
    percent(sums.linesRun, sums.lines),
    String(sums.branches),
    percent(sums.branchesRun, sums.branches),
  ]);
  const table = [["coverage", "lines", "run", "branches", "run"], ...rows].map((
    [room = "", ...cells],
  ) => room.padEnd(12) + cells.map((cell) => cell.padStart(10)).join(""));
  const { lines, linesRun } = rooms.get(ALL) ?? { lines: 1, linesRun: 0 };
  return { table, total: 100 * linesRun / lines };
}

/** Whether a file of JSON has its end. */
async function isWhole(path: string): Promise<boolean> {
  using file = await Deno.open(path);
  const { size } = await file.stat();
  if (size === 0) return false;
  await file.seek(-1, Deno.SeekMode.End);
  const last = new Uint8Array(1);
  await file.read(last);
  return last[0] === "}".charCodeAt(0);
}

/** Sums a report in lcov's format by room, and over all. */
function roomsOf(lcov: string): Map<string, Sums> {
  const rooms = new Map<string, Sums>();
  let sums: Sums[] = [];
  for (const line of lcov.split("\n")) {
    const colon = line.indexOf(":");
    const value = line.slice(colon + 1);
    switch (line.slice(0, colon)) {
      case "SF": {
        const [room = ""] = value.slice(LIB.length + 1).split(/[\\/]/);
        sums = [room, ALL].map((name) => {
          const found = rooms.get(name) ?? { lines: 0, linesRun: 0, branches: 0, branchesRun: 0 };
          rooms.set(name, found);
          return found;
        });
        break;
      }
      case "LF":
        sums.forEach((each) => each.lines += Number(value));
        break;
      case "LH":
        sums.forEach((each) => each.linesRun += Number(value));
        break;
      case "BRF":
        sums.forEach((each) => each.branches += Number(value));
        break;
      case "BRH":
        sums.forEach((each) => each.branchesRun += Number(value));
        break;
    }
  }
  return rooms;
}

function percent(part: number, whole: number): string {
  return whole === 0 ? "" : `${(100 * part / whole).toFixed(1)} %`;
}
