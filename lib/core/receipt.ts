/**
 * What a write returns.
 * @module
 */

/** What a write returns: what was written, and where its event is. */
export interface Receipt {
  /** the document's id, given or generated */
  documentId: string;
  /** the event's id in the stream; `null` where `perform_write_behind` does not forward such a change */
  streamId: string | null;
  /** the stream id as one integer, as the target's `version` column holds it; `null` as above */
  version: bigint | null;
  /** true where the same `requestId` was already done, and this is its first receipt */
  repeated: boolean;
}
