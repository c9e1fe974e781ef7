/** `deno task services`: the embedded servers of this checkout, until they are stopped. */

import { join } from "node:path";
import { type Command, Option } from "commander";
import { servicesFolder } from "../config/checkout.ts";
import { loadConfig } from "../config/load.ts";
import { describeServers } from "../config/servers.ts";
import { interruptible } from "../core/interrupt.ts";
import { PASSWORDS_FILE } from "../dev/servers/passwords.ts";

/** What may run beside Redis and PostgreSQL. */
type More = "mysql";

async function keepServices(signal: AbortSignal, more: readonly More[]) {
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
  const { stopped, heldBy } = await runServices({
    config: await loadConfig(),
    more,
    onProgress: console.log,
    signal,
    onReady: (servers) => {
      console.log(describeServers(servers));
      if (servers.mysqlUrl !== undefined) console.log(asTarget(servers.mysqlUrl));
      console.log("running; Ctrl-C stops them");
    },
  });
  if (stopped.length > 0) console.log(`stopped: ${stopped.join(", ")}`);
  if (heldBy.length > 0) console.log(`left running: process ${heldBy.join(", ")} uses them`);
}

/**
 * How to use MariaDB as a target, without its password.
 * @param url with it
 * @param root the folder of the checkout. @default {this one}
 */
export function asTarget(url: string, root?: string): string {
  const { hostname: host, port, pathname, username: user } = new URL(url);
  const passwords = join(servicesFolder(root), PASSWORDS_FILE);
  return `MariaDB as a target, in the configuration file:

targets:
  - { name: mysql, kind: mysql, host: ${host}, port: ${port}, database: ${
    pathname.slice(1)
  }, user: ${user}, password: "\${MYSQL_PASSWORD}" }

and before each command:

export MYSQL_PASSWORD=$(sed -n 's/.*"application": "\\(.*\\)".*/\\1/p' '${passwords}')
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
    .action(({ with: more }: { with?: More }) =>
      interruptible((signal) => keepServices(signal, more ? [more] : []), { cleansUp: true })
    );
  services.command("stop").description("stop those that this checkout started").action(async () => {
    const { stopServices } = await import("../dev/servers/services.ts");
    const stopped = await stopServices({ onProgress: console.log });
    console.log(stopped.length > 0 ? `stopped: ${stopped.join(", ")}` : "none were running");
  });
}
