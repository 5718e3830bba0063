/** A disk whose calls take a while, and whose writes are made piece by piece, as the kernel does. */
import type { Disk, DiskFile } from '../../../src/core/disk/disk.js';
import type { Random } from '../../../src/core/random.js';

export function slowDisk(disk: Disk, random: Random, pause: () => Promise<void>): Disk {
  const slowFile = (file: DiskFile): DiskFile => ({
    read: async (label, into, offset) => (await pause(), file.read(label, into, offset)),
    readSync: (label, into, offset) => file.readSync(label, into, offset),
    writeSync: (label, bytes, offset) => file.writeSync(label, bytes, offset),
    truncateSync: (label, length) => file.truncateSync(label, length),
    write: async (label, bytes, offset) => {
      for (let at = 0; at < bytes.length;) {
        await pause();
        const next = Math.min(bytes.length, at + 1 + random.below(bytes.length));
        await file.write(label, bytes.subarray(at, next), offset + at);
        at = next;
      }
    },
    truncate: async (label, length) => {
      await pause();
      await file.truncate(label, length);
      await pause();
    },
    size: (label) => file.size(label),
    datasync: async (label) => {
      await pause();
      await file.datasync(label);
      await pause();
    },
    close: () => file.close(),
  });
  return {
    open: async (label, path, mode) => (await pause(), slowFile(await disk.open(label, path, mode))),
    mkdir: (label, path) => disk.mkdir(label, path),
    list: (label, path) => disk.list(label, path),
    rename: async (label, from, to) => (await pause(), disk.rename(label, from, to)),
    unlink: (label, path) => disk.unlink(label, path),
    syncDirectory: (label, path) => disk.syncDirectory(label, path),
    space: (label, path) => disk.space(label, path),
    lock: (label, path) => disk.lock(label, path),
    bootId: () => disk.bootId(),
  };
}
