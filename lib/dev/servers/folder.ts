/** A folder for servers of one's own, which does not outlive the process that made it. */

import { join } from "node:path";

/**
 * A temporary folder, with everything that servers write in it.
 *
 * A shell watches over it: when this process or worker ends without cleaning up (a failure, Ctrl-C, SIGKILL), its
 * standard input closes, and it kills the servers that work in this folder, and commands that were given a file of
 * it, and removes all.
 */
export class ServersFolder implements AsyncDisposable {
  readonly path: string;
  readonly #shell: Deno.ChildProcess;
  #made = 0;

  /** @param prefix of its name, such as `writebehind-stage-` */
  constructor(prefix: string) {
    this.path = Deno.realPathSync(Deno.makeTempDirSync({ prefix }));
    // The servers may run under another account, which has to pass through.
    Deno.chmodSync(this.path, 0o711);
    this.#shell = new Deno.Command("sh", {
      args: ["-c", WATCH, this.path],
      cwd: "/",
      detached: true,
      stdin: "piped",
      stdout: "null",
      stderr: "null",
    }).spawn();
    this.#shell.unref();
  }

  /** Names a path in it that is used once; nothing is there yet. */
  next(kind: string): string {
    return join(this.path, `${kind}-${++this.#made}`);
  }

  /** Kills what still works in it, and removes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#shell.stdin.close();
    this.#shell.ref();
    await this.#shell.status;
  }
}

const WATCH = `cat >/dev/null
if [ -d /proc/self ]; then
  for process in /proc/[0-9]*; do
    case $(readlink "$process/cwd")$(tr '\\0' '\\n' <"$process/cmdline") in
      *"$0"/*) kill -KILL "\${process#/proc/}" ;;
    esac
  done
else
  lsof -t +D "$0" | xargs kill -KILL
  pkill -KILL -f "$0/"
fi
rm -rf "$0" || { sleep 1; rm -rf "$0"; }`;
