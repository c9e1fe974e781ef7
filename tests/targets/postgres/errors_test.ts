import assert from "node:assert/strict";
import { ConfigError, ConnectionError } from "writebehind";
import { postgresErrorKind } from "writebehind/targets/postgres/errors.ts";

Deno.test("errors are sorted: exact codes win over classes, and what is unknown is configuration", () => {
  const kinds = {
    transient: ["08006", "53300", "57P01"],
    chance: ["40001", "40P01", "53200", "55P03", "55000", "57000"],
    too_large: ["57014", "25P03", "25P04"],
    configuration: ["53100", "58030", "42P01", "42501", "28P01", "25006", "XX000", "0A000"],
    related: ["23503", "23505", "23P01"],
    document: ["22P02", "22P05", "23502", "23514", "44000", "54000", "P0001"],
  };
  for (const [kind, codes] of Object.entries(kinds)) {
    for (const code of codes) assert.equal(postgresErrorKind({ code, message: "" }), kind, code);
  }
  assert.equal(postgresErrorKind(new Error("Connection terminated unexpectedly")), "transient");
  assert.equal(postgresErrorKind({ code: "ECONNREFUSED", message: "" }), "transient");
  assert.equal(
    postgresErrorKind(new Error("LOADING Redis is loading the dataset in memory")),
    "transient",
  );
  const advice = "a connection was closed: let the pooler RECONNECT";
  assert.equal(postgresErrorKind(new ConfigError(advice)), "configuration");
  for (const cause of [new Error("connection closed by Redis"), undefined]) {
    const lost = new ConnectionError("Connection to Redis lost: no reply in time", { cause });
    assert.equal(postgresErrorKind(lost), "transient");
  }
  assert.equal(postgresErrorKind(new Error("WRONGTYPE Operation against a key")), "configuration");
});
