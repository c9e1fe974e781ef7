/** The worker in a process of its own, until it is killed: `REDIS_URL`, `DATABASE_URL`. */

import { Redis } from "ioredis";
import pg from "pg";
import { work } from "./worker.ts";

const redis = new Redis(Deno.env.get("REDIS_URL")!);
const pool = new pg.Pool({ connectionString: Deno.env.get("DATABASE_URL")! });
await work({ redis, pool, signal: new AbortController().signal });
