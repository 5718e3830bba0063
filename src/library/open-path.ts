/** open(2) of a path: by the name at its end, so that the master says which file that is now (P2). */
import { CairnError } from '../core/errors.js';
import { kindOfMode } from '../filesystem/file-kind.js';
import type { Attributes, OpenFile } from '../filesystem/filesystem.js';
import { failedWith } from './node-error.js';
import type { ParsedFlags } from './open-flags.js';
import type { PathLike, PathResolver } from '../filesystem/paths.js';

/** `mode` of a new file, after the umask. */
export async function openPath(
  paths: PathResolver,
  path: PathLike,
  flags: ParsedFlags,
  mode: number,
): Promise<OpenFile> {
  if (flags.create) return openOrCreate(paths, path, flags, mode);
  const opened = await openExisting(paths, path, flags);
  const kind = kindOfMode(opened.attributes.mode);
  if (kind === 'directory' ? flags.write : kind !== 'file' || flags.directory) {
    await opened.file.close();
    if (kind === 'directory') throw new CairnError('EISDIR', 'it is a directory');
    throw new CairnError(flags.directory ? 'ENOTDIR' : 'ENXIO', `it is a ${kind}`);
  }
  return opened.file;
}

async function openOrCreate(paths: PathResolver, path: PathLike, flags: ParsedFlags, mode: number): Promise<OpenFile> {
  const { fs, credentials } = paths;
  const options = { mode, flags, exclusive: flags.exclusive };
  const { parent, name } = await paths.place(path).catch((error: unknown) => {
    throw failedWith(error, 'EBUSY', 'EINVAL')
      ? new CairnError('EISDIR', 'it is a directory', { cause: error })
      : error;
  });
  try {
    return (await fs.create(credentials, parent, name, options)).file;
  } catch (error) {
    if (!failedWith(error, 'ELOOP') || flags.noFollow || flags.exclusive) throw error;
  }
  // A symlink: what it leads to is opened, or made there.
  const end = await paths.walk(path, true);
  return (await fs.create(credentials, end.parent, end.name, options)).file;
}

async function openExisting(
  paths: PathResolver,
  path: PathLike,
  flags: ParsedFlags,
): Promise<{ readonly file: OpenFile; readonly attributes: Attributes }> {
  const { fs, credentials } = paths;
  const end = await paths.entry(path);
  if (end !== undefined) {
    try {
      return await fs.openAt(credentials, end.parent, end.name, flags);
    } catch (error) {
      if (!failedWith(error, 'ELOOP') || flags.noFollow) throw error;
    }
  }
  const { attributes } = await paths.resolve(path, true);
  return fs.open(credentials, attributes.inode, flags);
}
