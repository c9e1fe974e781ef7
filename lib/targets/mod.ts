/**
 * The port to a target: opening one, and the types for those who write one.
 * @module
 */

export type { Config, EntityConfig, SearchFieldConfig } from "../config/load.ts";
export type { ErrorKind } from "../core/error_kinds.ts";
export { ConnectionError, WriteBehindError } from "../core/errors.ts";
export type { EventType } from "../core/stream_ids.ts";
export type { PartitionKeys } from "../redis/keys.ts";
export {
  connectPostgres,
  createTable,
  openTarget,
  type PostgresPool,
  readDeadLetter,
} from "./open.ts";
export {
  type Adoption,
  type Batch,
  type Batches,
  type BatchRows,
  type Belonging,
  type Claim,
  type DeadLetter,
  type DeadLetterEvent,
  type DeadLetters,
  type DeadLetterSelection,
  type DeadLetterState,
  type Doubt,
  type HeldDeadLetters,
  type Identities,
  type Offsets,
  type Ownership,
  OwnershipLostError,
  PAGE_ROWS,
  type Parked,
  ParkedChangedError,
  type ParkedDocument,
  type ParkedEvent,
  READ_BYTES,
  type Refusal,
  type Removal,
  type Row,
  type Rows,
  type RowsAt,
  type ScannedRow,
  type Settled,
  type Standing,
  type Target,
  type TargetDescription,
  type Tried,
  type Upsert,
} from "./target.ts";
