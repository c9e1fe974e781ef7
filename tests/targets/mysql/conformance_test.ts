/** MariaDB keeps every promise of the port, by statements that are of MySQL's grammar too. */

import { conformance, offersSharing } from "../conformance/mod.ts";
import { grammar, LOGGING } from "./grammar.ts";
import { makePlace, sharedMariadb } from "./place.ts";

const server = await sharedMariadb(LOGGING);
Deno.test.afterAll(async () => await server?.[Symbol.asyncDispose]());

conformance("MariaDB", () => makePlace(server!), server === null);
offersSharing("MariaDB", () => makePlace(server!), server === null);

// Behind them all, since it looks at what they asked the server.
grammar(server);
