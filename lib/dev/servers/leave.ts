import { releaseServices } from "./services.ts";

/** Lets go of the servers and says what became of them. */
export async function leaveServices(): Promise<void> {
  const { stopped, heldBy } = await releaseServices({ onProgress: console.log });
  if (heldBy.length > 0) {
    console.log(
      `the servers are left running: process ${heldBy.join(", ")} uses them ` +
        "(`deno task services stop` stops them)",
    );
  } else if (stopped.length > 0) console.log("servers stopped");
}
