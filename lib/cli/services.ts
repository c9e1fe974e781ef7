/** `deno task services`: the embedded servers of this checkout, until they are stopped. */

import { join } from "node:path";
import { type Command, Option } from "commander";
import { servicesFolder } from "../config/checkout.ts";
import { loadConfig } from "../config/load.ts";
import { describeServers } from "../config/servers.ts";
import { interruptible } from "../core/interrupt.ts";
import { PASSWORDS_FILE } from "../dev/servers/passwords.ts";
import type { Node } from "../redis/nodes.ts";

/** What may run beside Redis and PostgreSQL. */
type More = "mysql";

async function keepServices(signal: AbortSignal, more: readonly More[], withCluster: boolean) {
  await using stack = new AsyncDisposableStack();
  const [{ ensureSetup }, { runServices }, { writeKernelspec }, { findMariadb }] = await Promise
    .all([
      import("../dev/setup.ts"),
      import("../dev/servers/services.ts"),
      import("../dev/jupyter/jupyter.ts"),
      import("../dev/servers/binaries.ts"),
    ]);
  if (more.includes("mysql")) await findMariadb(); // before anything is installed or started
  await ensureSetup({ onProgress: console.log, signal });
  await writeKernelspec(); // An editor may open the notebooks now.
  const nodes = withCluster ? await startOwnCluster(stack) : [];
  const { stopped, heldBy } = await runServices({
    config: await loadConfig(),
    more,
    onProgress: console.log,
    signal,
    onReady: (servers) => {
      console.log(describeServers(servers));
      if (servers.mysqlUrl !== undefined) console.log(asTarget(servers.mysqlUrl));
      if (withCluster) console.log(asCluster(nodes));
      console.log("running; Ctrl-C stops them");
    },
  });
  if (stopped.length > 0) console.log(`stopped: ${stopped.join(", ")}`);
  if (heldBy.length > 0) console.log(`left running: process ${heldBy.join(", ")} uses them`);
}

/** Starts a cluster that is empty, and ends with the stack, or with this process. */
async function startOwnCluster(stack: AsyncDisposableStack): Promise<readonly Node[]> {
  const [{ startCluster }, { ServersFolder }, { readPasswords }] = await Promise.all([
    import("../dev/servers/cluster.ts"),
    import("../dev/servers/folder.ts"),
    import("../dev/servers/passwords.ts"),
  ]);
  const folder = stack.use(new ServersFolder("writebehind-cluster-"));
  const { redis: password } = await readPasswords();
  return (await startCluster({ dir: folder.next("cluster"), password })).nodes;
}

/**
 * How to use a cluster, without its password.
 * @param nodes of it
 * @param root the folder of the checkout. @default {this one}
 */
export function asCluster(nodes: readonly Node[], root?: string): string {
  const list = nodes.map(({ host, port }) => `${host}:${port}`).join(",");
  return `a Redis Cluster, empty, which ends with this; before each command:

export REDIS_URL=redis-cluster://:${passwordOf("redis", root)}@${list}

with streams.partitions: 16, or so, in the configuration file
`;
}

/** What a shell reads a password with. */
function passwordOf(name: string, root?: string): string {
  const passwords = join(servicesFolder(root), PASSWORDS_FILE);
  return `$(sed -n 's/.*"${name}": "\\(.*\\)".*/\\1/p' '${passwords}')`;
}

/**
 * How to use MariaDB as a target, without its password.
 * @param url with it
 * @param root the folder of the checkout. @default {this one}
 */
export function asTarget(url: string, root?: string): string {
  const { hostname: host, port, pathname, username: user } = new URL(url);
  return `MariaDB as a target, in the configuration file:

targets:
  - { name: mysql, kind: mysql, host: ${host}, port: ${port}, database: ${
    pathname.slice(1)
  }, user: ${user}, password: "\${MYSQL_PASSWORD}" }

and before each command:

export MYSQL_PASSWORD=${passwordOf("application", root)}
`;
}

/** Adds it to the command line. */
export function addServices(program: Command): void {
  const services = program.command("services")
    .description("the embedded Redis Stack (a primary and a replica) and PostgreSQL");
  services.command("start", { isDefault: true })
    .description("start them, and keep them until Ctrl-C or `services stop`")
    .addOption(
      new Option("--with <server>", "one more: mysql, a MariaDB, where mariadbd is on the PATH")
        .choices(["mysql"]),
    )
    .option("--cluster", "a Redis Cluster too, of three masters and their replicas")
    .action(({ with: more, cluster = false }: { with?: More; cluster?: boolean }) =>
      interruptible((signal) => keepServices(signal, more ? [more] : [], cluster), {
        cleansUp: true,
      })
    );
  services.command("stop").description("stop those that this checkout started").action(async () => {
    const { stopServices } = await import("../dev/servers/services.ts");
    const stopped = await stopServices({ onProgress: console.log });
    console.log(stopped.length > 0 ? `stopped: ${stopped.join(", ")}` : "none were running");
  });
}
