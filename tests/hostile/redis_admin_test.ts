/** What an administrator of Redis does while writers and sinks run, beside what admin_test.ts has. */

import { setTimeout as delay } from "node:timers/promises";
import { connect } from "node:net";
import type { Pipeline } from "../support/pipeline.ts";
import { type AdminCommand, eachUnderTraffic, onStreams } from "./under_traffic.ts";

const A_WHILE = 300;

const call = (...command: (string | number)[]): AdminCommand => ({
  run: ({ redis }) => redis.call(...(command as [string])),
});
const setting = (name: string, value: string | number, back: string | number): AdminCommand => ({
  run: async ({ redis }) => {
    await redis.config("SET", name, value);
    await delay(A_WHILE);
  },
  restore: ({ redis }) => redis.config("SET", name, back),
});
const often = (run: (pipeline: Pipeline) => Promise<unknown>, times = 30): AdminCommand => ({
  run: async (pipeline) => {
    for (let n = 0; n < times; n++) {
      await run(pipeline).catch(() => {});
      await delay(5);
    }
  },
});
/** On a connection that the change does not shut out. */
async function aside({ servers }: Pipeline, ...lines: string[]): Promise<string> {
  const socket = connect({ host: servers.redis.host, port: servers.redis.port });
  socket.write([...lines, "QUIT", ""].join("\r\n"));
  let answer = "";
  for await (const chunk of socket) answer += chunk;
  return answer;
}

const COMMANDS: Record<string, AdminCommand> = {
  ...Object.fromEntries(
    ["normal", "pubsub", "replica", "master"].map((
      type,
    ) => [
      `CLIENT KILL TYPE ${type}`,
      often(({ redis }) => redis.call("CLIENT", "KILL", "TYPE", type, "SKIPME", "no")),
    ]),
  ),
  "CLIENT KILL by id, each": {
    run: async (pipeline) => {
      const list = await aside(pipeline, "CLIENT LIST");
      for (const [, id] of list.matchAll(/\bid=(\d+)/g)) {
        await aside(pipeline, `CLIENT KILL ID ${id}`);
      }
    },
  },
  "CLIENT KILL USER": { run: (pipeline) => aside(pipeline, "CLIENT KILL USER default SKIPME yes") },
  "CLIENT KILL MAXAGE": { run: (pipeline) => aside(pipeline, "CLIENT KILL MAXAGE 0 SKIPME yes") },
  "CLIENT PAUSE WRITE": call("CLIENT", "PAUSE", 400, "WRITE"),
  "CLIENT PAUSE and UNPAUSE": often(async ({ redis }) => {
    await redis.call("CLIENT", "PAUSE", 20, "WRITE");
    await redis.call("CLIENT", "UNPAUSE");
  }),
  "CLIENT UNBLOCK each": often(async (pipeline) => {
    const list = await aside(pipeline, "CLIENT LIST");
    for (const [, id] of list.matchAll(/\bid=(\d+)/g)) {
      await aside(pipeline, `CLIENT UNBLOCK ${id} ERROR`);
    }
  }, 10),
  "CLIENT UNBLOCK each, as timed out": often(async (pipeline) => {
    const list = await aside(pipeline, "CLIENT LIST");
    for (const [, id] of list.matchAll(/\bid=(\d+)/g)) {
      await aside(pipeline, `CLIENT UNBLOCK ${id} TIMEOUT`);
    }
  }, 10),
  "SCRIPT FLUSH, again and again": often(({ redis }) => redis.call("SCRIPT", "FLUSH", "SYNC"), 100),
  "SCRIPT FLUSH ASYNC": often(({ redis }) => redis.call("SCRIPT", "FLUSH", "ASYNC"), 100),
  "SCRIPT KILL": often(({ redis }) => redis.call("SCRIPT", "KILL"), 100),
  "SWAPDB there and back": {
    run: async ({ redis }) => {
      await redis.call("SWAPDB", 0, 1);
      await redis.call("SWAPDB", 0, 1);
    },
  },
  "RENAME of a document, there and back": {
    run: async (pipeline) => {
      const [key] = await pipeline.redis.keys("session:*");
      await aside(pipeline, "MULTI", `RENAME ${key} away`, `RENAME away ${key}`, "EXEC");
    },
  },
  "RENAME of the stream, there and back": {
    run: async (pipeline) => {
      for (const stream of await pipeline.redis.keys("stream:{*")) {
        await aside(
          pipeline,
          "MULTI",
          `RENAME ${stream} away`,
          `RENAME away ${stream}`,
          "EXEC",
        );
      }
    },
  },
  "MOVE of the stream, there and back": {
    run: async (pipeline) => {
      for (const stream of await pipeline.redis.keys("stream:{*")) {
        await aside(
          pipeline,
          "MULTI",
          `MOVE ${stream} 1`,
          "SELECT 1",
          `MOVE ${stream} 0`,
          "SELECT 0",
          "EXEC",
        );
      }
    },
  },
  "COPY of the stream over itself": {
    run: async (pipeline) => {
      for (const stream of await pipeline.redis.keys("stream:{*")) {
        await aside(
          pipeline,
          "MULTI",
          `COPY ${stream} away REPLACE`,
          `DEL ${stream}`,
          `RENAME away ${stream}`,
          "EXEC",
        );
      }
    },
  },
  "PERSIST, TOUCH, OBJECT": {
    run: onStreams(async (redis, stream) => {
      await redis.persist(stream);
      await redis.touch(stream);
      await redis.call("OBJECT", "ENCODING", stream);
      await redis.call("MEMORY", "USAGE", stream);
    }),
  },
  "maxmemory of 1": setting("maxmemory", 1, 0),
  "maxmemory that evicts volatile keys": {
    run: async ({ redis }) => {
      await redis.config("SET", "maxmemory-policy", "volatile-lru");
      await redis.config("SET", "maxmemory", 1);
      await delay(A_WHILE);
    },
    restore: async ({ redis }) => {
      await redis.config("SET", "maxmemory", 0);
      await redis.config("SET", "maxmemory-policy", "noeviction");
    },
  },
  "proto-max-bulk-len of 1 MB": setting("proto-max-bulk-len", 1048576, 536870912),
  "client-output-buffer-limit": setting(
    "client-output-buffer-limit",
    "normal 1 1 1",
    "normal 0 0 0",
  ),
  "client-query-buffer-limit": setting("client-query-buffer-limit", 1048576, 1073741824),
  "lua-time-limit 1": setting("busy-reply-threshold", 1, 5000),
  "stream-node-max-entries 1": setting("stream-node-max-entries", 1, 100),
  "stream-node-max-bytes 1": setting("stream-node-max-bytes", 1, 4096),
  "appendonly off and on": {
    run: async ({ redis }) => {
      await redis.config("SET", "appendonly", "no");
      await delay(50);
      await redis.config("SET", "appendonly", "yes");
    },
  },
  "min-replicas-to-write": setting("min-replicas-to-write", 1, 0),
  "maxclients 1": setting("maxclients", 1, 10000),
  "REPLICAOF nobody, and back": {
    run: async (pipeline) => {
      await aside(pipeline, "REPLICAOF 127.0.0.1 1");
      await delay(A_WHILE);
    },
    restore: (pipeline) => aside(pipeline, "REPLICAOF NO ONE"),
  },
  "a password set and unset": {
    run: async (pipeline) => {
      await aside(pipeline, "CONFIG SET requirepass word", "CLIENT KILL TYPE normal SKIPME yes");
      await delay(A_WHILE);
    },
    restore: (pipeline) => aside(pipeline, "AUTH word", 'CONFIG SET requirepass ""'),
  },
  ...Object.fromEntries(
    ["xadd", "evalsha", "json.set", "xread", "xtrim", "xinfo", "@write", "@read", "@all"].map((
      name,
    ) => [
      `ACL -${name}`,
      {
        run: async (pipeline) => {
          // Another user mends it.
          await aside(
            pipeline,
            "ACL SETUSER root on nopass ~* &* +@all",
            `ACL SETUSER default -${name}`,
          );
          await delay(A_WHILE);
        },
        restore: (pipeline) =>
          aside(pipeline, "AUTH root any", "ACL SETUSER default +@all", "ACL DELUSER root"),
      } satisfies AdminCommand,
    ]),
  ),
  "ACL without our keys": {
    run: async (pipeline) => {
      await aside(
        pipeline,
        "ACL SETUSER root on nopass ~* &* +@all",
        "ACL SETUSER default resetkeys ~other:*",
      );
      await delay(A_WHILE);
    },
    restore: (pipeline) =>
      aside(pipeline, "AUTH root any", "ACL SETUSER default ~*", "ACL DELUSER root"),
  },
  "the user off": {
    run: async (pipeline) => {
      await aside(
        pipeline,
        "ACL SETUSER root on nopass ~* &* +@all",
        "ACL SETUSER default off",
        "CLIENT KILL TYPE normal SKIPME yes",
      );
      await delay(A_WHILE);
    },
    restore: (pipeline) =>
      aside(pipeline, "AUTH root any", "ACL SETUSER default on", "ACL DELUSER root"),
  },
  "XGROUP SETID 0": {
    run: onStreams(async (redis, stream) => {
      await redis.call("XGROUP", "SETID", stream, "postgresql", "0").catch(() => {});
    }),
  },
  "XREADGROUP by others": {
    run: onStreams(async (redis, stream) => {
      await redis.call("XGROUP", "CREATE", stream, "others", "0", "MKSTREAM").catch(() => {});
      await redis.call(
        "XREADGROUP",
        "GROUP",
        "others",
        "one",
        "COUNT",
        100,
        "STREAMS",
        stream,
        ">",
      );
    }),
  },
  "XSETID ahead": {
    run: onStreams(async (redis, stream) => {
      const info = await redis.xinfo("STREAM", stream) as unknown as string[];
      const last = String(info[info.indexOf("last-generated-id") + 1]);
      await redis.call("XSETID", stream, `${Number(last.split("-")[0]) + 2000}-0`).catch(() => {});
    }),
  },
  "XDEL of all, one by one": {
    run: onStreams(async (redis, stream) => {
      for (const [id] of await redis.xrange(stream, "-", "+")) await redis.xdel(stream, id);
    }),
    losesEvents: true,
  },
  "FT.DROPINDEX": {
    run: ({ redis }) => redis.call("FT.DROPINDEX", "idx:sessions").catch(() => {}),
  },
  "DEL of gauges": often(async ({ redis }) => {
    for (const key of await redis.keys("metrics:*")) await redis.del(key);
  }, 20),
  "gauges of another type": often(async ({ redis }) => {
    for (const key of await redis.keys("metrics:*")) await redis.set(key, "x");
  }, 20),
  "logs of another type": often(async ({ redis }) => {
    for (const key of ["log:redis:success", "log:postgres:success"]) await redis.set(key, "x");
  }, 20),
  "lastid of another type": often(async ({ redis }) => {
    for (const key of await redis.keys("stream:lastid:*")) {
      await redis.del(key);
      await redis.hset(key, "a", 1);
    }
  }, 20),
  "EXPIRE of settings": {
    run: async ({ redis }) => {
      for (const key of await redis.keys("stream:settings:*")) await redis.pexpire(key, 1);
    },
  },
  "MONITOR by somebody": {
    run: async ({ servers }) => {
      const socket = connect({ host: servers.redis.host, port: servers.redis.port });
      socket.write("MONITOR\r\n");
      socket.resume();
      await delay(A_WHILE);
      socket.destroy();
    },
  },
  "garbage on the port": {
    run: async ({ servers }) => {
      for (let n = 0; n < 50; n++) {
        const socket = connect({ host: servers.redis.host, port: servers.redis.port });
        socket.on("error", () => {});
        socket.write(crypto.getRandomValues(new Uint8Array(1000)));
        await delay(2);
        socket.destroy();
      }
    },
  },
};

Deno.test("an administrator of Redis under traffic", (t) => eachUnderTraffic(t, 1, COMMANDS));
