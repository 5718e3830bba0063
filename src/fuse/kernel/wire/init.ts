/** INIT, the first request of a mount: what the kernel can do, and which of it this driver wants. */
import { CairnError } from '../../../core/errors.js';
import { MAX_BACKGROUND_REQUESTS, MAX_PAYLOAD_BYTES } from '../../../core/limits.js';
import type { Cursor } from './decode.js';
import { INIT_FLAGS, NEWEST_MINOR, OLDEST_MINOR, PROTOCOL_MAJOR } from './protocol.js';
import type { InitFlag } from './protocol.js';

/** Bytes of one READ or WRITE at most: one message to a chunkserver. */
export const MAX_IO_BYTES = MAX_PAYLOAD_BYTES;
const PAGE_BYTES = 4096;
const INIT_OUT_BYTES = 64;

/**
 * What is wanted where the kernel has it. Left out on purpose: WRITEBACK_CACHE, with which the kernel owns size and mtime
 * and mounts do not agree; AUTO_INVAL_DATA, a GETATTR before each read, since an open drops old pages already;
 * EXPLICIT_INVAL_DATA, with which a page at the end of file would keep its zeros when another mount appends.
 */
const WANTED: readonly InitFlag[] = [
  'ASYNC_READ',
  'POSIX_LOCKS',
  'FLOCK_LOCKS',
  'ATOMIC_O_TRUNC',
  'EXPORT_SUPPORT',
  'DONT_MASK',
  'POSIX_ACL',
  'BIG_WRITES',
  'DO_READDIRPLUS',
  'ASYNC_DIO',
  'PARALLEL_DIROPS',
  'MAX_PAGES',
  'CACHE_SYMLINKS',
  'HANDLE_KILLPRIV_V2',
  'SETXATTR_EXT',
  'INIT_EXT',
  'CREATE_SUPP_GROUP',
  'HAS_EXPIRE_ONLY',
  'DIRECT_IO_ALLOW_MMAP',
];

export interface MountKind {
  readonly kernelChecks: boolean;
  /** The root of the mount is that of the cluster. */
  readonly isWhole: boolean;
}

function wantedFor({ kernelChecks, isWhole }: MountKind): readonly InitFlag[] {
  return WANTED.filter((flag) => {
    // It makes the kernel check permissions by itself, whatever the mount's options say.
    if (flag === 'POSIX_ACL') return kernelChecks;
    // A file handle would lead out of a mount of one directory: a file does not know where it is.
    return flag !== 'EXPORT_SUPPORT' || isWhole;
  });
}

export interface Negotiated {
  readonly minor: number;
  has(flag: InitFlag): boolean;
  /** fuse_init_out */
  readonly reply: Buffer;
}

/** EIO when the kernel is too old. */
export function negotiate(body: Cursor, kind: MountKind): Negotiated {
  const [major, minor, readahead] = [body.u32(), body.u32(), body.u32()];
  if (major !== PROTOCOL_MAJOR || minor < OLDEST_MINOR) {
    const needed = `${PROTOCOL_MAJOR}.${OLDEST_MINOR} (Linux 5.4)`;
    throw new CairnError('EIO', `this kernel speaks FUSE ${major}.${minor}; the kernel driver needs ${needed}`);
  }
  const offered = [body.u32(), 0];
  if (bit(offered, 'INIT_EXT')) offered[1] = body.u32();
  const flags = [0, 0];
  for (const name of wantedFor(kind)) {
    if (!bit(offered, name)) continue;
    const [word, mask] = place(name);
    flags[word] = ((flags[word] ?? 0) | mask) >>> 0;
  }
  const speaks = Math.min(minor, NEWEST_MINOR);
  const reply = Buffer.alloc(INIT_OUT_BYTES);
  reply.writeUInt32LE(PROTOCOL_MAJOR, 0);
  reply.writeUInt32LE(speaks, 4);
  reply.writeUInt32LE(Math.max(readahead, MAX_IO_BYTES), 8);
  reply.writeUInt32LE(flags[0] ?? 0, 12);
  reply.writeUInt16LE(MAX_BACKGROUND_REQUESTS, 16);
  reply.writeUInt16LE((MAX_BACKGROUND_REQUESTS / 4) * 3, 18);
  reply.writeUInt32LE(MAX_IO_BYTES, 20);
  reply.writeUInt32LE(1, 24); // times have nanoseconds
  reply.writeUInt16LE(MAX_IO_BYTES / PAGE_BYTES, 28);
  reply.writeUInt32LE(flags[1] ?? 0, 32);
  return { minor: speaks, has: (flag) => bit(flags, flag), reply };
}

function place(flag: InitFlag): [word: number, mask: number] {
  const number = INIT_FLAGS[flag];
  return [number >> 5, (1 << (number & 31)) >>> 0];
}

function bit(words: readonly number[], flag: InitFlag): boolean {
  const [word, mask] = place(flag);
  return ((words[word] ?? 0) & mask) !== 0;
}
