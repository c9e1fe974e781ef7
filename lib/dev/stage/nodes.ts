/**
 * Where the partitions are in a cluster, by the word of its nodes.
 * @module
 */

import type { RedisConnection } from "../../redis/connection.ts";
import type { PartitionKeys } from "../../redis/keys.ts";
import { nameOf, slotOf } from "../../redis/slots.ts";

/** One node, as the page shows it. */
export interface NodeView {
  /** host and port, as status names it */
  name: string;
  /** whether it does, as far as is known */
  answers: boolean;
}

/** A master that has slots. */
export interface MasterView extends NodeView {
  /** the numbers of the partitions that it has */
  partitions: number[];
  replicas: NodeView[];
}

/** A line of CLUSTER NODES. */
interface Line extends NodeView {
  id: string;
  /** of a replica */
  masterId: string;
  /** from and to, both included */
  ranges: [from: number, to: number][];
}

/**
 * Asks one of the masters.
 * @throws the last error where none of them answers
 */
export async function readNodes(
  redis: RedisConnection,
  partitions: readonly PartitionKeys[],
): Promise<MasterView[]> {
  const { servers } = redis;
  let reason: unknown = new Error("no node of the cluster answers");
  for (const server of servers.filter(({ sends }) => sends)) {
    try {
      const lines = linesOf(String(await server.cluster("NODES")), server.node!.host);
      return mastersOf(lines, partitions, (name) => {
        const known = servers.find(({ node }) => nameOf(node!) === name);
        // Who is connected notices before the others of the cluster agree on it.
        return known === undefined || known.sends;
      });
    } catch (error) {
      reason = error;
    }
  }
  throw reason;
}

function mastersOf(
  lines: readonly Line[],
  partitions: readonly PartitionKeys[],
  connects: (name: string) => boolean,
): MasterView[] {
  const slots = partitions.map(({ stream }) => slotOf(stream));
  return lines.filter(({ ranges }) => ranges.length > 0)
    .toSorted((a, b) => a.ranges[0]![0] - b.ranges[0]![0])
    .map(({ id, name, answers, ranges }) => ({
      name,
      answers: answers && connects(name),
      partitions: partitions.flatMap(({ partition }, index) =>
        ranges.some(([from, to]) => from <= slots[index]! && slots[index]! <= to) ? [partition] : []
      ),
      replicas: lines.filter(({ masterId }) => masterId === id)
        .map(({ name, answers }) => ({ name, answers })),
    }));
}

/** @param asked the host of the node that answers, which may not know it */
function linesOf(text: string, asked: string): Line[] {
  return text.split("\n").filter((line) => line !== "").map((line) => {
    const [id, address, flags, masterId, , , , link, ...slots] = line.split(" ");
    const [, host, port] = /^(.*):(\d+)@/.exec(address!)!;
    const isAway = /fail|noaddr|handshake/.test(flags!);
    return {
      id: id!,
      name: nameOf({ host: host || asked, port: Number(port) }),
      answers: !isAway && link === "connected",
      masterId: masterId!,
      // What is in brackets is a slot on its way.
      ranges: slots.filter((slot) => !slot.startsWith("[")).map((slot) => {
        const [from, to = from] = slot.split("-").map(Number);
        return [from!, to!];
      }),
    };
  });
}
