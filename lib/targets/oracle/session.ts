/**
 * Oracle, **experimental: never run against Oracle**. Here is what it would be asked, and the transactions around it;
 * no kind of target uses it yet, and no driver is loaded. docs/targets.md says what was run, and what is missing.
 * @module
 */

/** What a parameter is, whatever a driver would guess: a text past 4,000 bytes is a `clob`, a number's text a `number`. */
export type Kind = "text" | "clob" | "number" | "raw" | "blob";

/** A statement with named parameters, such as `:stream`, and what each of them is. */
export interface Statement {
  readonly sql: string;
  readonly binds: Readonly<Record<string, Kind>>;
}

/** The values of a statement's parameters, by their names. */
export type Values = Readonly<Record<string, string | number | Uint8Array | null>>;

/** A connection that commits nothing by itself. */
export interface OracleSession {
  /** The rows of a query, by the names that it gives its columns; large objects are read. */
  query(statement: Statement, values: Values): Promise<Record<string, unknown>[]>;
  /**
   * Changes rows, for all values in one message.
   * @returns how many rows were changed
   */
  change(statement: Statement, values: readonly Values[]): Promise<number>;
  commit(): Promise<void>;
  rollback(): Promise<void>;
}
