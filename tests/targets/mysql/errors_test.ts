/** What the errors of MySQL and MariaDB mean for the sink. */

import assert from "node:assert/strict";
import { ConnectionError } from "writebehind";
import {
  isMysqlError,
  isOfTheServer,
  mysqlErrorKind,
  RefusedDocumentError,
  withRemedy,
} from "writebehind/targets/mysql/errors.ts";

const server = (errno: number, sqlState = "HY000") =>
  Object.assign(new Error(`error ${errno}`), { errno, sqlState, code: "ER_ANY" });

Deno.test("MySQL: errors by their numbers", () => {
  const kinds: Record<string, number[]> = {
    transient: [1040, 1053, 1158, 1927],
    chance: [1205, 1213, 1317],
    too_large: [1153, 1461, 1969, 3024],
    related: [1062, 1169, 1451, 1452, 1557, 1586],
    document: [1048, 1264, 1292, 1366, 1406, 1526, 1644, 1690, 3819, 4025],
    configuration: [1045, 1044, 1142, 1054, 1146, 1364, 1114, 1290, 1836],
  };
  for (const [kind, numbers] of Object.entries(kinds)) {
    for (const errno of numbers) assert.equal(mysqlErrorKind(server(errno)), kind, String(errno));
  }
  assert.equal(mysqlErrorKind(server(9999, "45000")), "document");
  assert.equal(mysqlErrorKind(server(9999)), "configuration");
});

Deno.test("MySQL: an error that somebody has to act on says how, once", () => {
  const remedies = { 1449: "make that user", 1665: "set the server's binlog_format to ROW" };
  for (const [errno, remedy] of Object.entries(remedies)) {
    const error = server(Number(errno));
    withRemedy(error);
    withRemedy(error);
    assert.equal(error.message.split(remedy).length, 2, error.message);
  }
  const other = server(1406);
  withRemedy(other);
  assert.equal(other.message, "error 1406");
});

Deno.test("MySQL: errors of the way there, of ours, and explained ones", () => {
  const lost = new Error("Can't add new command when connection is in closed state");
  const refused = Object.assign(new Error("connect"), { code: "ECONNREFUSED", errno: -111 });
  for (const error of [lost, refused]) {
    assert.equal(isMysqlError(error), false);
    assert.equal(mysqlErrorKind(error), "transient");
  }
  assert.equal(mysqlErrorKind(new RefusedDocumentError("22032", "no JSON")), "document");
  const cause = server(1213);
  assert.equal(mysqlErrorKind(new ConnectionError("explained", { cause })), "chance");
  // A full disk may hit some rows before others: it says nothing of them.
  for (const errno of [1021, 1114, 1290, 1045]) assert.equal(isOfTheServer(server(errno)), true);
  assert.equal(isOfTheServer(server(1406)), false);
});
