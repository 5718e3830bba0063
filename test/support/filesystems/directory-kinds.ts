/** Kinds of files as stat(2) and mknod(2) say them. */
import { CairnError } from '../../../src/core/errors.js';
import type { FileKind } from '../../../src/filesystem/filesystem.js';

export const TYPE_OF_KIND: Readonly<Record<FileKind, number>> = {
  ...{ fifo: 0o010000, characterDevice: 0o020000, directory: 0o040000, blockDevice: 0o060000 },
  ...{ file: 0o100000, symlink: 0o120000, socket: 0o140000 },
};
const S_IFMT = 0o170000;

export function kindOf(type: number): FileKind {
  const found = (Object.keys(TYPE_OF_KIND) as FileKind[]).find((kind) => TYPE_OF_KIND[kind] === (type & S_IFMT));
  if (found === undefined) throw new CairnError('EIO', `no kind of file: ${type.toString(8)}`);
  return found;
}
