/** This machine's files, for copying to and from a cluster. */
import { lstat, mkdir, open, opendir, readlink, stat, symlink } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { asCairnError, hasCode } from '../../core/errors.js';
import { MAX_PAYLOAD_BYTES } from '../../core/limits.js';
import { PERMISSION_BITS } from '../../core/mode.js';
import { kindOfMode } from '../../fuse/linux.js';
import type { Tree, TreeStat } from './tree.js';

export class LocalTree implements Tree {
  show(path: Buffer): string {
    return path.toString();
  }

  stat(path: Buffer): Promise<TreeStat | undefined> {
    return ifThere(stat(path));
  }

  lstat(path: Buffer): Promise<TreeStat | undefined> {
    return ifThere(lstat(path));
  }

  async *list(path: Buffer): AsyncIterable<Buffer> {
    // With encoding "buffer" names come as bytes, which the types of opendir do not say.
    const directory = await opendir(path, { encoding: 'buffer' as BufferEncoding });
    for await (const { name } of directory) yield typeof name === 'string' ? Buffer.from(name) : name;
  }

  async *read(path: Buffer): AsyncIterable<Buffer> {
    const file = await open(path, 'r');
    try {
      for (;;) {
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(MAX_PAYLOAD_BYTES));
        if (bytesRead === 0) return;
        yield buffer.subarray(0, bytesRead);
      }
    } finally {
      await file.close();
    }
  }

  async write(path: Buffer, mode: number, content: AsyncIterable<Buffer>): Promise<void> {
    const file = await open(path, 'w', mode);
    try {
      for await (const bytes of content) {
        for (let done = 0; done < bytes.length;) done += (await file.write(bytes, done)).bytesWritten;
      }
    } finally {
      await file.close();
    }
  }

  async makeDirectory(path: Buffer, mode: number): Promise<void> {
    await mkdir(path, mode);
  }

  readLink(path: Buffer): Promise<Buffer> {
    return readlink(path, { encoding: 'buffer' });
  }

  async makeSymlink(path: Buffer, target: Buffer): Promise<void> {
    await symlink(target, path);
  }
}

async function ifThere(stats: Promise<Stats>): Promise<TreeStat | undefined> {
  try {
    const { mode, size } = await stats;
    return { kind: kindOfMode(mode), mode: mode & PERMISSION_BITS, size };
  } catch (error) {
    if (hasCode(asCairnError(error), 'ENOENT', 'ENOTDIR')) return undefined;
    throw error;
  }
}
