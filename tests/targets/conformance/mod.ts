/** Every promise of the port, as cases that each target passes. */

import { batches } from "./batches.ts";
import { columns } from "./columns.ts";
import { deadLetters } from "./dead_letters.ts";
import { identities } from "./identities.ts";
import { ownership } from "./ownership.ts";
import type { Cases, Place } from "./place.ts";
import { rows } from "./rows.ts";
import { schema } from "./schema.ts";
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
 */
export function conformance(
  kind: string,
  make: () => Promise<Place>,
  ignore = false,
): void {
  for (const [part, cases] of Object.entries(SUITE)) {
    for (const [name, run] of Object.entries(cases)) {
      Deno.test({ name: `${kind}: ${part}: ${name}`, ignore }, async () => {
        await using place = await make();
        await run(place);
      });
    }
  }
}
