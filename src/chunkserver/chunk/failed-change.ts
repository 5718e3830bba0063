/** What a change of a chunk file that failed half-way leaves of its blocks: the table takes them as they stand. */
import { checksum } from '../../core/checksum.js';
import { BLOCK_SIZE_BYTES } from '../../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { blockLength, blockOf, neverRight } from './chunk-format.js';
import type { StoredBlocks } from './stored-blocks.js';

/** It was to change the bytes from `start` to `end`. */
export interface FailedChange {
  readonly start: number;
  readonly end: number;
  /** From the block of `start` on. */
  readonly newSums: readonly number[];
  readonly newLength: number;
}

/** `length`: bytes of data that the file has now. Throws when they cannot be read. */
export async function takeAsIs(
  table: ChecksumTable,
  blocks: StoredBlocks,
  length: number,
  change: FailedChange,
): Promise<void> {
  const first = blockOf(change.start);
  const last = Math.max(first, blockOf(change.end - 1));
  const sums: number[] = [];
  const torn: number[] = [];
  const damaged: number[] = [];
  for (let block = first; block <= last; block++) {
    const bytes = Buffer.allocUnsafeSlow(blockLength(block, length));
    if (bytes.length > 0) await blocks.read(block * BLOCK_SIZE_BYTES, bytes);
    const actual = checksum(bytes);
    const sum = bytes.length === 0 ? 0 : sumAsIs(table, block, { bytes, actual }, change);
    sums.push(sum === 'torn' ? (change.newSums[block - first] ?? table.sumOf(block)) : sum);
    if (sum === actual) continue;
    // What was torn or damaged before, and was not replaced, still is.
    if (table.isDamaged(block)) damaged.push(block);
    else if (sum === 'torn' || table.isTorn(block)) torn.push(block);
  }
  table.take(first, sums, length, false);
  for (const block of torn) blocks.noteTorn(block);
  for (const block of damaged) table.noteDamaged(block);
}

/**
 * Of `bytes`, which the change left in a block; `actual` is their checksum. What it was not to touch was not verified for
 * it: its checksum is continued, as one of what is read now would make damage pass for sound. Nor was what it was to replace
 * whole: where some of that is left it is torn, as when the process is killed.
 */
function sumAsIs(
  table: ChecksumTable,
  block: number,
  { bytes, actual }: { readonly bytes: Uint8Array; readonly actual: number },
  { start, end, newSums, newLength }: FailedChange,
): number | 'torn' {
  const before = table.lengthOf(block);
  if (before === 0) return actual;
  const sum = table.sumOf(block);
  const at = block * BLOCK_SIZE_BYTES;
  const isCut = newLength < table.length;
  const isMade = bytes.length === blockLength(block, newLength);
  const newSum = isMade ? newSums[block - blockOf(start)] : undefined;
  if (isCut || start >= at + before) {
    if (bytes.length >= before) return checksum(bytes.subarray(before), sum);
    return newSum ?? neverRight(actual);
  }
  const isReplaced = start <= at && end >= at + before;
  return !isReplaced || actual === newSum || (actual === sum && bytes.length === before) ? actual : 'torn';
}
