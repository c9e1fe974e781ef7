/** A standby of an embedded PostgreSQL: streaming replication, promoted by hand. */

import { join } from "node:path";
import pg from "pg";
import { type PostgresServer, startPostgres } from "writebehind/dev/servers/postgres.ts";
import { TcpProxy } from "writebehind/dev/servers/proxy.ts";
import { asOwner, queryAt, testFolder, waitFor } from "./servers.ts";

/** A PostgreSQL that follows another. */
export interface Standby extends AsyncDisposable {
  readonly server: PostgresServer;
  /** what lies between it and the primary */
  readonly link: TcpProxy;
  /** Makes it a primary of its own. */
  promote(): Promise<void>;
}

/** The name under which a standby is known to its primary, as `synchronous_standby_names` takes it. */
export const STANDBY = "standby";

/** Files of a data folder that are its server's alone. */
const OWN_FILES = ["postmaster.pid", "postmaster.opts"];

/** Makes a standby from a base backup of a running server, and waits until it follows. */
export async function standbyOf(primary: PostgresServer): Promise<Standby> {
  await using stack = new AsyncDisposableStack();
  const dir = testFolder("standby");
  stack.defer(() => Deno.remove(dir, { recursive: true }));
  const link = stack.use(await TcpProxy.start(primary));
  await backUp(primary, dir);
  const owner = new URL(primary.ownerUrl);
  const server = await startPostgres({
    dir,
    extraSettings: {
      primary_conninfo: [
        `host=${link.host} port=${link.port} user=${owner.username}`,
        `password=${decodeURIComponent(owner.password)} application_name=${STANDBY}`,
        "sslmode=disable",
      ].join(" "),
      wal_retrieve_retry_interval: "100ms",
    },
  });
  stack.defer(() => server.stop("immediate"));
  await follows(primary);
  const owned = stack.move();
  return {
    server,
    link,
    promote: () => asOwner(server, "SELECT pg_promote(true, 60)"),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Waits until the standby has what the primary has. */
export function follows(primary: PostgresServer): Promise<unknown> {
  return waitFor(async () => {
    const rows = await queryAt(
      primary.ownerUrl,
      `SELECT FROM pg_stat_replication
        WHERE application_name = '${STANDBY}' AND state = 'streaming' AND replay_lsn >= pg_current_wal_lsn()`,
    );
    return rows.length === 1;
  }, { what: "the standby to follow", deadlineMs: 60_000 });
}

/** As pg_basebackup does, which is not among the embedded programs. */
async function backUp(primary: PostgresServer, dir: string): Promise<void> {
  const client = new pg.Client(primary.ownerUrl);
  await client.connect();
  try {
    await client.query("SELECT pg_backup_start('standby', true)");
    // The account of the primary owns the copy as well.
    const copied = await new Deno.Command("cp", {
      args: ["-pPR", primary.dir, dir],
      stdin: "null",
    }).output();
    // A file that the server has removed meanwhile is missing: replaying the log makes up for it.
    const said = new TextDecoder().decode(copied.stderr).trim();
    const bad = said.split("\n").filter((line) => line && !line.includes("No such file"));
    if (bad.length > 0) throw new Error(`the copy failed: ${said}`);
    const { rows: [row] } = await client.query<{ labelfile: string }>(
      "SELECT labelfile FROM pg_backup_stop(false)",
    );
    const data = join(dir, "data");
    for (const name of OWN_FILES) await Deno.remove(join(data, name)).catch(() => {});
    const { uid, gid } = await Deno.stat(data);
    for (const [name, text] of [["backup_label", row!.labelfile], ["standby.signal", ""]]) {
      await Deno.writeTextFile(join(data, name!), text!);
      await Deno.chown(join(data, name!), uid, gid);
    }
  } finally {
    await client.end();
  }
}
