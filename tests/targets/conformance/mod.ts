/** Every promise of the port, as cases that each target passes. */

import { batches } from "./batches.ts";
import { columns } from "./columns.ts";
import { deadLetters } from "./dead_letters.ts";
import { identities } from "./identities.ts";
import { ownership } from "./ownership.ts";
import type { Cases, Place } from "./place.ts";
import { rows } from "./rows.ts";
import { schema } from "./schema.ts";
import { sharing } from "./sharing.ts";
import { trying } from "./trying.ts";

/** All cases by their part. */
export const SUITE: Record<string, Cases> = {
  ownership,
  identities,
  batches,
  trying,
  deadLetters,
  rows,
  schema,
  columns,
};

/**
 * Declares the suite's tests for a target.
 * @param make gives an empty place
 * @param ignore whether they are skipped, since its server is not installed
 * @param meaningless cases that have no meaning for it, as `part: name`, or whole parts; docs/targets.md says why
 */
export function conformance(
  kind: string,
  make: () => Promise<Place>,
  ignore = false,
  meaningless: string[] = [],
): void {
  const left = new Set(meaningless);
  for (const [part, cases] of Object.entries(SUITE)) {
    if (left.delete(part)) continue;
    for (const [name, run] of Object.entries(cases)) {
      if (left.delete(`${part}: ${name}`)) continue;
      declare(`${kind}: ${part}: ${name}`, run, make, ignore);
    }
  }
  if (left.size > 0) throw new Error(`the suite has no case ${[...left].join(", ")}`);
}

/** Declares the tests of what a target may offer besides: that sinks share the partitions. */
export function offersSharing(kind: string, make: () => Promise<Place>, ignore = false): void {
  for (const [name, run] of Object.entries(sharing)) {
    declare(`${kind}: sharing: ${name}`, run, make, ignore);
  }
}

function declare(
  name: string,
  run: (place: Place) => Promise<void>,
  make: () => Promise<Place>,
  ignore: boolean,
): void {
  Deno.test({ name, ignore }, async () => {
    await using place = await make();
    await run(place);
  });
}
