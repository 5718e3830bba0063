/** Rows of one large file: streams, reads and writes at random places. */
import { closeSync, fsyncSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { noise, numbers, type Place, type Row } from './row.js';

const MIB = 1024 * 1024;
const PAGE = 4096;
const READERS = 4;
const WRITTEN = 'seq write (fsync)';

/** The target over memory knows the file by this name, and does not keep its bytes. */
export const LARGE_FILE = 'large-file';

const pathIn = ({ directory }: Place): string => join(directory, LARGE_FILE);

function writeAll(path: string, mebibytes: number): number {
  const block = noise(MIB);
  const descriptor = openSync(path, 'w');
  for (let i = 0; i < mebibytes; i++) {
    for (let done = 0; done < block.length;) done += writeSync(descriptor, block, done);
  }
  fsyncSync(descriptor);
  closeSync(descriptor);
  return mebibytes;
}

function readAll(place: Place): number {
  const block = Buffer.allocUnsafe(MIB);
  const descriptor = openSync(pathIn(place), 'r');
  let total = 0;
  for (let count = -1; count !== 0; total += count) count = readSync(descriptor, block, 0, block.length, null);
  closeSync(descriptor);
  return whole(total, place);
}

/** Four threads (libuv's), each with a quarter of the file and a descriptor of its own. */
async function readParts(place: Place): Promise<number> {
  const part = (place.sizes.largeMiB / READERS) * MIB;
  const lane = async (index: number): Promise<number> => {
    const block = Buffer.allocUnsafe(MIB);
    const file = await open(pathIn(place), 'r');
    let done = 0;
    while (done < part) {
      const { bytesRead } = await file.read(block, 0, Math.min(MIB, part - done), index * part + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    await file.close();
    return done;
  };
  const counts = await Promise.all(Array.from({ length: READERS }, (_, index) => lane(index)));
  return whole(
    counts.reduce((sum, count) => sum + count, 0),
    place,
  );
}

function whole(bytes: number, { sizes }: Place): number {
  if (bytes !== sizes.largeMiB * MIB) throw new Error(`${bytes} bytes were read of ${sizes.largeMiB} MiB`);
  return sizes.largeMiB;
}

/** Calls `operation` with `count` offsets of pages, the same in every run. */
function atRandom({ sizes }: Place, count: number, operation: (offset: number) => void): number {
  const next = numbers(count);
  const pages = (sizes.largeMiB * MIB) / PAGE;
  for (let i = 0; i < count; i++) operation((next() % pages) * PAGE);
  return count;
}

export const LARGE_FILE_ROWS: readonly Row[] = [
  {
    name: WRITTEN,
    unit: 'MiB/s',
    start: (place) => {
      // A new file each time: overwriting in place is other work.
      rmSync(pathIn(place), { force: true });
      return () => writeAll(pathIn(place), place.sizes.largeMiB);
    },
  },
  {
    ...{ name: 'seq read (cold)', unit: 'MiB/s', needs: [WRITTEN], cold: true },
    start: (place) => () => readAll(place),
  },
  {
    ...{ name: 'seq read (warm)', unit: 'MiB/s', needs: [WRITTEN], warm: true },
    start: (place) => () => readAll(place),
  },
  {
    ...{ name: '4 threads read (cold)', unit: 'MiB/s', needs: [WRITTEN], cold: true },
    start: (place) => () => readParts(place),
  },
  {
    ...{ name: '4K random read (cold)', unit: '/s', needs: [WRITTEN], cold: true },
    start: (place) => {
      const descriptor = openSync(pathIn(place), 'r');
      const block = Buffer.allocUnsafe(PAGE);
      return () =>
        atRandom(place, place.sizes.randomReads, (offset) => {
          if (readSync(descriptor, block, 0, PAGE, offset) !== PAGE) throw new Error(`no bytes at ${offset}`);
        });
    },
  },
  {
    ...{ name: '4K random write (one fsync)', unit: '/s', needs: [WRITTEN] },
    start: (place) => {
      const descriptor = openSync(pathIn(place), 'r+');
      const block = noise(PAGE);
      return () => {
        const count = atRandom(place, place.sizes.randomWrites, (offset) => {
          if (writeSync(descriptor, block, 0, PAGE, offset) !== PAGE) throw new Error(`cut short at ${offset}`);
        });
        fsyncSync(descriptor);
        return count;
      };
    },
  },
  {
    name: '256B append (fsync each)',
    unit: '/s',
    start: ({ directory, sizes }) => {
      const descriptor = openSync(join(directory, 'log'), 'a');
      const line = Buffer.alloc(256, 'x');
      return () => {
        for (let i = 0; i < sizes.appends; i++) {
          writeSync(descriptor, line);
          fsyncSync(descriptor);
        }
        return sizes.appends;
      };
    },
  },
];
