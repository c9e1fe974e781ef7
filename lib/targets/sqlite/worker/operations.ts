/**
 * What the worker does for the other side, by name. Each runs to its end before the next one begins.
 * @module
 */

import * as batches from "./batches.ts";
import * as columns from "./columns.ts";
import type { Database } from "./database.ts";
import * as identities from "./identities.ts";
import * as letters from "./dead_letters.ts";
import * as partitions from "./partitions.ts";
import * as rows from "./rows.ts";
import { check, migrate } from "./schema.ts";

export const operations = {
  check,
  migrate,
  columnDifferences: columns.differences,
  columnStatements: columns.statements,
  columnsBlocked: columns.blocked,
  migrateColumns: columns.migrateColumns,
  claim: partitions.claim,
  epoch: partitions.epoch,
  wentBack: partitions.wentBack,
  moveOffset: partitions.moveOffset,
  offset: partitions.offset,
  readIdentity: identities.read,
  noteIdentity: identities.note,
  lookAtTable: identities.look,
  doubt: identities.doubt,
  settleDoubt: identities.settle,
  adopt: identities.adopt,
  standing: partitions.standing,
  apply: batches.apply,
  swallowed: batches.swallowed,
  missed: batches.missed,
  invalidPayloads: batches.invalidPayloads,
  probe: batches.probe,
  anyRow: batches.anyRow,
  parkedAmong: batches.parkedAmong,
  size: rows.size,
  newest: rows.newest,
  ids: rows.ids,
  notSurelyEqual: rows.notSurelyEqual,
  at: rows.at,
  scan: rows.scan,
  openList: letters.openList,
  nextListed: letters.nextListed,
  readLetter: letters.readLetter,
  openDocuments: letters.openDocuments,
  nextDocuments: letters.nextDocuments,
  hold: letters.hold,
  endHold: letters.endHold,
  discard: letters.discard,
  discardedAmong: letters.discardedAmong,
  parkedStreams: letters.parkedStreams,
  moveLetters: letters.moveLetters,
  entries: letters.entries,
  events: letters.events,
  payloads: letters.payloads,
  hasRow: letters.hasRow,
  attempt: letters.attempt,
  settle: letters.settle,
};

type Operations = typeof operations;

/** The name of an operation. */
export type Operation = keyof Operations;

/** What is given to an operation, besides the database. */
export type Given<Name extends Operation> = Operations[Name] extends
  (db: Database, ...given: infer Rest) => unknown ? Rest : never;

/** What it returns. */
export type Result<Name extends Operation> = ReturnType<Operations[Name]>;

/** The first message to a worker: what it is to open, once it is asked for something. */
export interface Opening {
  path: string;
  readOnly: boolean;
  /** an open transaction that is left alone for so long is rolled back, in ms */
  patienceMs: number;
}

/** A later message: what is to be done. `close` is the last. */
export type Request =
  | { id: number; name: Operation; given: unknown[] }
  | { id: number; name: "close" };

/** The answer to a request. `errcode` is SQLite's; `name` is the error's class. */
export type Answer =
  | { id: number; result: unknown }
  | {
    id: number;
    error: {
      message: string;
      errcode: number | undefined;
      name: string;
      stack: string | undefined;
    };
  };
