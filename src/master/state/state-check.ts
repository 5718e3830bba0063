/**
 * Looks through a whole state, for one that may not be of a piece: a copy of a master's directory that was taken while the master
 * ran. Pages of the store that changed while it was read show as keys out of order, records that do not decode, or names and
 * chunks that lead nowhere. It costs what the state holds, so it is for that case alone.
 */
import { CairnError } from '../../core/errors.js';
import { chunkHandle, inodeId } from '../../core/ids.js';
import { ChunkRecord, DentryRecord, InodeRecord } from '../../protocol/generated/messages.js';
import { keys, unpacked } from './keys.js';
import type { StateReader } from './state.js';

/** All tables: a letter each. */
const ALL = { start: 'A', end: '[' };

/** Returns how many entries there are. CORRUPT when the state cannot be of one moment. */
export function checkState(state: StateReader): number {
  let count = 0;
  let previous = '';
  for (const [key, value] of state.range(ALL)) {
    if (key <= previous) throw torn('keys are out of order');
    previous = key;
    count++;
    try {
      checkEntry(state, key, value);
    } catch (cause) {
      if (cause instanceof CairnError && cause.code === 'CORRUPT') throw cause;
      throw torn(`a record of table ${key.charAt(0)} cannot be read`, cause);
    }
  }
  return count;
}

function checkEntry(state: StateReader, key: string, value: Uint8Array): void {
  if (key.startsWith('I')) InodeRecord.decode(value);
  else if (key.startsWith('K')) ChunkRecord.decode(value);
  else if (key.startsWith('D')) {
    const { inode } = DentryRecord.decode(value);
    if (state.get(keys.inode(inodeId(inode))) === undefined)
      throw torn(`a name leads to inode ${inode}, which is not there`);
  } else if (key.startsWith('F')) {
    const handle = unpacked(value);
    if (state.get(keys.chunk(chunkHandle(handle))) === undefined)
      throw torn(`a file has chunk ${handle}, which is not there`);
  }
}

function torn(what: string, cause?: unknown): CairnError {
  return new CairnError(
    'CORRUPT',
    `the metadata is not of one moment (${what}): it was copied while the master ran. Take a copy while it is stopped`,
    cause === undefined ? {} : { cause },
  );
}
