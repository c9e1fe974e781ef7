import assert from "node:assert/strict";
import { dashboardFiles, DASHBOARDS } from "writebehind/dev/grafana/write.ts";

Deno.test("the dashboards' files are what their code makes: deno task dashboards", async () => {
  const files = dashboardFiles();
  for (const [path, text] of files) assert.equal(await Deno.readTextFile(path), text, path);
  const names = Array.from(Deno.readDirSync(DASHBOARDS), ({ name }) => `${DASHBOARDS}/${name}`);
  assert.deepEqual(names.sort(), [...files.keys()].sort());
});
