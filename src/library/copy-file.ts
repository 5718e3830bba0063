/** Copies a file as `fs.copyFile`: content and permission bits. The bytes go through this process. */
import { CairnError } from '../core/errors.js';
import { MAX_PAYLOAD_BYTES } from '../core/limits.js';
import { PERMISSION_BITS } from '../core/mode.js';
import type { FileHandle } from './file-handle.js';
import type { PathLike } from '../filesystem/paths.js';

interface Opener {
  open(path: PathLike, flags?: string, mode?: number): Promise<FileHandle>;
}

/** `exclusive`: fails when `to` exists. */
export async function copyFile(opener: Opener, from: PathLike, to: PathLike, exclusive: boolean): Promise<void> {
  const source = await opener.open(from);
  try {
    const stats = await source.stat();
    if (stats.isDirectory()) throw new CairnError('EISDIR', 'it is a directory');
    const target = await opener.open(to, exclusive ? 'wx' : 'w', stats.mode & PERMISSION_BITS);
    try {
      if ((await target.stat()).ino === stats.ino) throw new CairnError('EINVAL', 'both are the same file');
      for (;;) {
        const bytes = await source.readBytes(MAX_PAYLOAD_BYTES);
        if (bytes.length === 0) break;
        await target.write(bytes);
      }
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}
