import assert from "node:assert/strict";
import { ConnectionError } from "writebehind";
import {
  explained,
  isOfTheFile,
  SqliteError,
  sqliteErrorKind,
} from "writebehind/targets/sqlite/errors.ts";

Deno.test("SQLite: errors are sorted by their primary codes, and what is unknown is configuration", () => {
  const kinds = {
    transient: [5, 261, 517, 6, 262, 15, 9],
    chance: [7],
    related: [787, 2067],
    document: [19, 275, 1299, 1555, 1811, 3091, 18, 20],
    configuration: [0, 1, 8, 1032, 10, 266, 778, 11, 13, 14, 23, 26],
  };
  for (const [kind, codes] of Object.entries(kinds)) {
    for (const code of codes) {
      assert.equal(sqliteErrorKind(new SqliteError("", code)), kind, String(code));
    }
  }
  assert.equal(sqliteErrorKind(new Error("LOADING Redis is loading")), "transient");
});

Deno.test("SQLite: codes have names, and say whether the file or a row is to blame", () => {
  const names: [code: number, name: string, ofTheFile: boolean][] = [
    [275, "SQLITE_CONSTRAINT_CHECK", false],
    [787, "SQLITE_CONSTRAINT_FOREIGNKEY", false],
    [1811, "SQLITE_CONSTRAINT_TRIGGER", false],
    [1, "SQLITE_ERROR", false],
    [517, "SQLITE_BUSY", true],
    [778, "SQLITE_IOERR", true],
    [13, "SQLITE_FULL", true],
    [0, "", false],
  ];
  for (const [code, name, ofTheFile] of names) {
    const error = new SqliteError("", code);
    assert.equal(error.sqlstate, name);
    assert.equal(isOfTheFile(error), ofTheFile, name);
  }
});

Deno.test("SQLite: an error of the file says what to do, one of a row only what it is", () => {
  const thrown = (errcode: number | undefined, message: string) =>
    Object.assign(new Error(message), { code: "ERR_SQLITE_ERROR", errcode });
  for (
    const [errcode, message, remedy] of [
      [5, "database is locked", /end it$/],
      [8, "attempt to write a readonly database", /must be able to write/],
      [10, "disk I/O error", /its disk fails/],
      [11, "database disk image is malformed", /verify --repair target/],
      [13, "database or disk is full", /make room/],
      [undefined, "unable to open database file: /a/b.db", /its folder must be there/],
      [26, "file is not a database", /check `path` under targets/],
    ] as const
  ) {
    const error = explained(thrown(errcode, message), "/a/b.db");
    assert(error instanceof SqliteError && error instanceof ConnectionError);
    assert(error.message.startsWith(`Cannot use /a/b.db: ${message}; `), error.message);
    assert.match(error.message, remedy);
  }
  const error = explained(thrown(275, "CHECK constraint failed: good"), "/a/b.db");
  assert.equal((error as Error).message, "CHECK constraint failed: good");
  const defect = new TypeError("no function");
  assert.equal(explained(defect, "/a/b.db"), defect);
});
