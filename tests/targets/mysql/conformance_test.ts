/** MariaDB keeps every promise of the port. */

import { conformance } from "../conformance/mod.ts";
import { makePlace, sharedMariadb } from "./place.ts";

const server = await sharedMariadb();
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

conformance("MariaDB", () => makePlace(server!), server === null);
