/**
 * Cases of the suite, and whole parts of it, that have no meaning for a topic. Why, and what is tested in their place, stands in docs/targets.md.
 */
export const MEANINGLESS = [
  "ownership: the lease ends with its process",
  "schema: a table that had rows and is away is not made anew",
  "batches: rows are written, changed and removed, with their times and versions",
  "batches: what is refused at the commit leaves nothing either",
  "batches: many rows, and large ones",
  "batches: abandoned, a batch fails at once; the next claim says whether it is in",
  "identities: a look finds that commits are lost",
  "trying: what is refused at the commit only is found by trying deeply",
  "columns",
];
