/** The checksum table as a crash may have left it, settled when the file is opened: from then on one checksum counts. */
import { checksum } from '../core/checksum.js';
import { BLOCKS_PER_CHUNK } from '../core/limits.js';
import type { ChecksumTable } from './checksum-table.js';
import { neverRight, ROW_BYTES, storedSum } from './chunk-format.js';
import { isContinued } from './lost-block.js';
import { CorruptBlockError, type StoredBlocks } from './stored-blocks.js';

/**
 * The checksum that counts for a block with these bytes; undefined: the current one. Where they are not torn but damaged, and were
 * so before they were appended to or cut, they do not have it.
 */
function settled(raw: Uint8Array, current: number, pending: number, acceptTorn: boolean): number | undefined {
  const actual = checksum(raw);
  if (actual === pending || actual === current) return actual;
  if (!acceptTorn) return undefined;
  return actual === neverRight(pending) || isContinued(raw, current, pending) ? pending : actual;
}

/**
 * Takes the table's `rows`, as read from the disk. `acceptTorn`: the page cache is as the killed process left it, so
 * that a block which has neither checksum is torn by a write that nobody was told about.
 */
export async function settle(
  table: ChecksumTable,
  blocks: StoredBlocks,
  rows: Buffer,
  acceptTorn: boolean,
): Promise<void> {
  const count = table.blockCount;
  for (let block = 0; block < BLOCKS_PER_CHUNK; block++) {
    const current = rows.readUInt32LE(block * ROW_BYTES);
    const pending = rows.readUInt32LE(block * ROW_BYTES + 4);
    if (block >= count) {
      if (current !== 0 || pending !== 0) table.clear(block, block);
      continue;
    }
    table.load(block, storedSum(current));
    if (current === pending) continue;
    const raw = await blocks.readBlock(block).catch((error: unknown) => {
      if (error instanceof CorruptBlockError) return undefined;
      throw error;
    });
    if (raw !== undefined) {
      const sum = settled(raw, storedSum(current), storedSum(pending), acceptTorn);
      if (sum !== undefined) table.load(block, sum);
    }
    // One checksum a block from here on: a torn block that is not accepted must not look pending again.
    table.announce(block, [table.sumOf(block)]);
  }
}
