/** Answers in the arrays of 32-bit words that fuse-native 2.2.6 reads (`populate_stat`, `populate_statvfs`). */
import type { Timespec } from '../../core/clock.js';
import { MAX_TYPED_LISTING } from '../../core/limits.js';
import type { Attributes, FileSystemStats } from '../../filesystem/filesystem.js';
import { blockCounts, typeBitsOf } from '../linux.js';
import type { ListedEntry } from './path-operations.js';

const STAT_WORDS = 18;
const STATVFS_WORDS = 11;
const MODE_WORD = 0;
const INODE_WORD = 7;
/** What programs read and write at a time when they ask stat(2): a request's largest size. */
const PREFERRED_IO_BYTES = 128 * 1024;
const WORD = 2 ** 32;

/** Whole milliseconds are all that fuse-native carries; times before 1970 become 1970. */
export function toMs(time: Timespec): number {
  return Math.max(0, time.seconds * 1000 + Math.floor(time.nanoseconds / 1e6));
}

export function fromMs(ms: number): Timespec {
  const seconds = Math.floor(ms / 1000);
  return { seconds, nanoseconds: (ms - seconds * 1000) * 1e6 };
}

/** 32 bits of an inode number; 0 would mean "no inode" to some programs. */
function shortInode(inode: number): number {
  return inode % WORD || WORD - 1;
}

export function statWords(a: Attributes, mtimeMs = toMs(a.mtime)): Uint32Array {
  const words = new Uint32Array(STAT_WORDS);
  words.set([a.mode, a.uid, a.gid], MODE_WORD);
  setLong(words, 3, a.size);
  words.set([0, a.nlink, shortInode(a.inode), a.rdev, PREFERRED_IO_BYTES], 5);
  setLong(words, 10, Math.ceil(a.allocatedBytes / 512));
  setLong(words, 12, toMs(a.atime));
  setLong(words, 14, mtimeMs);
  setLong(words, 16, toMs(a.ctime));
  return words;
}

export const noStatWords = (): Uint32Array => new Uint32Array(STAT_WORDS);

function setLong(words: Uint32Array, at: number, value: number): void {
  words[at] = value % WORD;
  words[at + 1] = Math.floor(value / WORD);
}

export function statvfsWords(stats: FileSystemStats): Uint32Array {
  const { blockSize, blocks, free } = blockCounts(stats, WORD);
  const used = Math.min(WORD - 1, stats.inodes);
  const freeInodes = WORD - 1 - used;
  return Uint32Array.of(
    ...[blockSize, blockSize, blocks, free, free],
    ...[WORD - 1, freeInodes, freeInodes, 0, 0, stats.maxNameBytes],
  );
}

export const noStatvfsWords = (): Uint32Array => new Uint32Array(STATVFS_WORDS);

export interface NativeListing {
  readonly names: string[];
  /** One an entry, of which libfuse uses inode and type; or none at all for a long listing. */
  readonly stats: Uint32Array[];
}

export function listingWords(entries: readonly ListedEntry[]): NativeListing {
  const names = entries.map((entry) => entry.name.toString('utf8'));
  if (entries.length > MAX_TYPED_LISTING) return { names, stats: [] };
  const words = new Uint32Array(entries.length * STAT_WORDS);
  const stats = entries.map((entry, i) => {
    const view = words.subarray(i * STAT_WORDS, (i + 1) * STAT_WORDS);
    view[MODE_WORD] = typeBitsOf(entry.kind);
    view[INODE_WORD] = shortInode(entry.inode);
    return view;
  });
  return { names, stats };
}
