/** What copying needs of a file system, local or of the cluster. Paths are absolute, and bytes, as names are. */
import type { FileKind } from '../../filesystem/filesystem.js';

export interface TreeStat {
  readonly kind: FileKind;
  /** Permission bits. */
  readonly mode: number;
  readonly size: number;
}

export interface Tree {
  /** For messages. */
  show(path: Buffer): string;
  /** Of what the path leads to; undefined when there is nothing. */
  stat(path: Buffer): Promise<TreeStat | undefined>;
  /** As `stat`, but of a symlink itself. */
  lstat(path: Buffer): Promise<TreeStat | undefined>;
  /** Names without '.' and '..', a page at a time in memory. */
  list(path: Buffer): AsyncIterable<Buffer>;
  read(path: Buffer): AsyncIterable<Buffer>;
  /** Makes or overwrites the file. All bytes are on the chunkservers, or given to the local system, when it returns. */
  write(path: Buffer, mode: number, content: AsyncIterable<Buffer>): Promise<void>;
  makeDirectory(path: Buffer, mode: number): Promise<void>;
  readLink(path: Buffer): Promise<Buffer>;
  makeSymlink(path: Buffer, target: Buffer): Promise<void>;
}

const SLASH = 0x2f;

export function joinPath(directory: Buffer, name: Buffer): Buffer {
  const separator = directory.at(-1) === SLASH ? [] : [Buffer.of(SLASH)];
  return Buffer.concat([directory, ...separator, name]);
}

/** The last component; empty for '/'. */
export function baseName(path: Buffer): Buffer {
  let end = path.length;
  while (end > 0 && path[end - 1] === SLASH) end--;
  return path.subarray(path.subarray(0, end).lastIndexOf(SLASH) + 1, end);
}

/** Components of a path, without empty ones and '.'. */
export function components(path: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  let start = 0;
  for (let i = 0; i <= path.length; i++) {
    if (i < path.length && path[i] !== SLASH) continue;
    const part = path.subarray(start, i);
    if (part.length > 0 && !part.equals(Buffer.from('.'))) parts.push(part);
    start = i + 1;
  }
  return parts;
}
