/** The checksum table as a crash may have left it, settled when the file is opened: from then on one checksum counts. */
import { checksum } from '../../core/checksum.js';
import { BLOCKS_PER_CHUNK } from '../../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { neverRight, ROW_BYTES, storedSum } from './chunk-format.js';
import { isContinued } from './lost-block.js';
import { CorruptBlockError, type StoredBlocks } from './stored-blocks.js';

/**
 * What `raw` is to its two checksums. `torn` has neither: the write was under way when the process was killed, or it was done and the
 * block has rotted since, which is not known here. A block that was damaged before it was appended to or cut is `damaged`.
 */
function stateOf(raw: Uint8Array, current: number, pending: number): 'old' | 'new' | 'torn' | 'damaged' {
  const actual = checksum(raw);
  if (actual === pending) return 'new';
  if (actual === current) return 'old';
  return actual === neverRight(pending) || isContinued(raw, current, pending) ? 'damaged' : 'torn';
}

/**
 * Takes the table's `rows`, as read from the disk. `isAsLeft`: the page cache is as the killed process left it. Then the new checksum
 * counts for a block that has neither, as the write may have been acknowledged; its row stays as it is until another replica, or
 * recovery, has settled it. After a power loss the old one counts: the row may be there, and not the data.
 */
export async function resolveTornRows(
  table: ChecksumTable,
  blocks: StoredBlocks,
  rows: Buffer,
  isAsLeft: boolean,
): Promise<void> {
  const count = table.blockCount;
  for (let block = 0; block < BLOCKS_PER_CHUNK; block++) {
    const current = rows.readUInt32LE(block * ROW_BYTES);
    const pending = rows.readUInt32LE(block * ROW_BYTES + 4);
    if (block >= count) {
      if (current !== 0 || pending !== 0) table.clear(block, block);
      continue;
    }
    const [before, after] = [storedSum(current), storedSum(pending)];
    table.load(block, before);
    if (current === pending) continue;
    const raw = await blocks.readBlock(block).catch((error: unknown) => {
      if (error instanceof CorruptBlockError) return undefined;
      throw error;
    });
    const state = raw === undefined ? 'damaged' : stateOf(raw, before, after);
    if (state === 'new' || (isAsLeft && state !== 'old')) table.load(block, after);
    if (isAsLeft && state === 'torn') {
      blocks.noteTorn(block);
      continue;
    }
    // One checksum a block from here on: a torn block that is not accepted must not look pending again.
    table.announce(block, [table.sumOf(block)]);
  }
}
