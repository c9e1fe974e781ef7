/**
 * What the page says of Redis: one with a replica, or the masters of a cluster with their partitions.
 * @module
 */

/** An element with a text. */
export function word(kind, text) {
  const element = document.createElement(kind);
  element.textContent = text;
  return element;
}

/** What runs of Redis. */
export function redisWords({ own, pair, masters }) {
  if (masters === null) {
    return pair === null
      ? ["given"]
      : [word("em", `:${pair.primary}`), ` replica :${pair.replica}`];
  }
  const replicas = masters.flatMap((master) => master.replicas);
  const of = own ? "" : "given, ";
  return [`${of}${masters.length} masters, ${replicas.length} replicas`];
}

/** What of Redis does not answer. */
export function silence(masters) {
  const up = masters?.filter(({ answers }) => answers).length;
  if (!masters || up === 0) return "no answer";
  return up < masters.length ? `${up} of ${masters.length} masters answer` : "not whole";
}

/** Where the partitions are, in a cluster. */
export function showMasters(list, { own, masters }) {
  list.hidden = masters === null;
  if (masters === null) return;
  const named = ({ name, answers }) =>
    word(answers ? "em" : "s", own ? name.replace(/^.*:/, ":") : name);
  list.replaceChildren(...masters.map((master) => {
    const { answers, partitions, replicas } = master;
    const item = document.createElement("li");
    item.className = answers ? "" : "down";
    const has = partitions.length === 0
      ? "no partition"
      : partitions.length === 1
      ? `partition ${partitions[0]}`
      : `${partitions.length} partitions: ${rangesOf(partitions)}`;
    const copies = replicas.flatMap((replica) => [" ", named(replica)]);
    item.append(named(master), word("span", has));
    item.title = has; // it may be too long
    const copy = word("span", replicas.length === 0 ? "no replica" : "replica");
    copy.append(...copies);
    item.append(copy);
    return item;
  }));
}

/** Such as 0–3 5 8: what is long is short. */
function rangesOf(numbers) {
  const ranges = [];
  for (const number of numbers) {
    const last = ranges.at(-1);
    if (last?.at(-1) === number - 1) last[1] = number;
    else ranges.push([number]);
  }
  return ranges.map((range) => range.join("–")).join(" ");
}
