/** Kinds of files, and the bits of st_mode that say them (inode(7)). */
import type { FileKind } from './filesystem.js';

const TYPE_MASK = 0o170000;
const KIND_OF_TYPE = new Map<number, FileKind>([
  [0o100000, 'file'],
  [0o040000, 'directory'],
  [0o120000, 'symlink'],
  [0o010000, 'fifo'],
  [0o140000, 'socket'],
  [0o020000, 'characterDevice'],
  [0o060000, 'blockDevice'],
]);
const TYPE_OF_KIND: Readonly<Record<FileKind, number>> = {
  file: 0o100000,
  directory: 0o040000,
  symlink: 0o120000,
  fifo: 0o010000,
  socket: 0o140000,
  characterDevice: 0o020000,
  blockDevice: 0o060000,
};

/** The kind that the type bits of `mode` (st_mode) say. */
export function kindOfMode(mode: number): FileKind {
  return KIND_OF_TYPE.get(mode & TYPE_MASK) ?? 'file';
}

/** The type bits of st_mode for a kind. */
export function typeBits(kind: FileKind): number {
  return TYPE_OF_KIND[kind];
}
