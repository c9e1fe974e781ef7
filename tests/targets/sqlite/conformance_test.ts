/** SQLite keeps every promise of the port. */

import { conformance } from "../conformance/mod.ts";
import { makePlace } from "./place.ts";

conformance("SQLite", makePlace);
