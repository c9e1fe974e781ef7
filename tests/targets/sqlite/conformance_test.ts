/** SQLite keeps every promise of the port. */

import { conformance } from "../conformance/mod.ts";
import { makePlace } from "./place.ts";

// Its sinks are on one machine: one has all, and another stands by.
conformance("SQLite", makePlace, false, [
  "ownership: processes that share know of each other, and of who has gone",
]);
