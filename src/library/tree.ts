/** Work on more than one directory: all that a path is missing, and whole trees, several entries at a time. */
import { CairnError, hasCode } from '../core/errors.js';
import type { InodeId } from '../core/ids.js';
import { kindOfMode } from '../filesystem/file-kind.js';
import type { Credentials, FileSystem } from '../filesystem/filesystem.js';
import { failedWith } from './node-error.js';
import type { PathLike, PathResolver } from '../filesystem/paths.js';

/** Entries of a directory that are removed side by side: round trips overlap, and the master stays fair to others. */
const PARALLEL = 16;

/** Makes the directory at `path` and what is missing above it. Returns the first made. */
export async function makeDirectories(paths: PathResolver, path: PathLike, mode: number): Promise<string | undefined> {
  const bytes = Buffer.from(path);
  let first: string | undefined;
  for (let end = 0; end < bytes.length;) {
    const slash = bytes.indexOf('/', end + 1);
    end = slash === -1 ? bytes.length : slash;
    const part = bytes.subarray(0, end);
    const found = await paths.walk(part, true);
    if (found.attributes !== undefined) {
      if (kindOfMode(found.attributes.mode) === 'directory') continue;
      throw new CairnError(end === bytes.length ? 'EEXIST' : 'ENOTDIR', `'${part.toString()}' is no directory`);
    }
    try {
      await paths.fs.makeNode(paths.credentials, found.parent, found.name, { kind: 'directory', mode });
      first ??= part.toString();
    } catch (error) {
      if (!failedWith(error, 'EEXIST')) throw error; // somebody else made it
    }
  }
  return first;
}

/** Removes a directory and all in it. What others remove meanwhile is no error. */
export async function removeTree(
  fs: FileSystem,
  credentials: Credentials,
  directory: { readonly parent: InodeId; readonly name: Buffer; readonly inode: InodeId },
): Promise<void> {
  const { parent, name, inode } = directory;
  for (;;) {
    // What is removed leaves the listing, so each page is the first one.
    const { entries, end } = await fs.readDirectory(credentials, inode, 0);
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let entry = entries[next++]; entry !== undefined; entry = entries[next++]) {
        if (entry.kind === 'directory') {
          await removeTree(fs, credentials, { parent: inode, name: entry.name, inode: entry.inode });
        } else {
          await unlessGone(fs.unlink(credentials, inode, entry.name));
        }
      }
    };
    // Directories are worked on alone, or the parallel work would multiply with the depth.
    const width = entries.some((entry) => entry.kind === 'directory') ? 1 : PARALLEL;
    await Promise.all(Array.from({ length: Math.min(width, entries.length) }, worker));
    if (!end) continue;
    try {
      await unlessGone(fs.removeDirectory(credentials, parent, name));
      return;
    } catch (error) {
      // Somebody put a new entry into it: begin again, as long as that goes on.
      if (!hasCode(error, 'ENOTEMPTY') || entries.length === 0) throw error;
    }
  }
}

async function unlessGone(removal: Promise<void>): Promise<void> {
  try {
    await removal;
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
}
