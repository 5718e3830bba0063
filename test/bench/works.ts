/**
 * What is measured in a directory, each a function of the directory to its rate. They run in a process of their own
 * (worker.ts), with plain synchronous calls, as a program that knows nothing of CairnFS would make them.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  opendirSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

export interface Sizes {
  /** Of the large file. */
  readonly fileMiB: number;
  /** Of the tree of small files. */
  readonly smallFiles: number;
}

export interface Work {
  readonly name: string;
  readonly unit: 'MiB/s' | '/s';
  /** Whether the caches of kernel and servers are dropped before. */
  readonly cold?: boolean;
  /** It says something of a driver that has no cluster behind it. */
  readonly ofDriver?: boolean;
  /** What it does is not measured. */
  prepare?(directory: string, sizes: Sizes): void;
  /** Returns how many units it did, or their rate when it looked at the clock itself. */
  run(directory: string, sizes: Sizes): number | { rate: number };
}

const MIB = 1024 * 1024;
const FILES_PER_DIRECTORY = 100;
const SMALL_FILE_BYTES = 4096;

/** Bytes that no layer can compress or share, made without a random source: the same in every run. */
function noise(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  let x = 0x9e3779b9;
  for (let at = 0; at + 4 <= length; at += 4) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    bytes.writeInt32LE(x, at);
  }
  return bytes;
}

const large = (directory: string): string => join(directory, 'large');
const smallRoot = (directory: string): string => join(directory, 'small');

function* smallPaths(directory: string, count: number, suffix = ''): Generator<string> {
  for (let i = 0; i < count; i++) {
    const folder = String(Math.floor(i / FILES_PER_DIRECTORY)).padStart(3, '0');
    yield join(smallRoot(directory), folder, `file-${i}${suffix}`);
  }
}

function writeSequentially(path: string, mebibytes: number): number {
  const block = noise(MIB);
  const descriptor = openSync(path, 'w');
  for (let i = 0; i < mebibytes; i++) {
    for (let done = 0; done < block.length;) done += writeSync(descriptor, block, done);
  }
  fsyncSync(descriptor);
  closeSync(descriptor);
  return mebibytes;
}

function readSequentially(path: string): number {
  const block = Buffer.alloc(MIB);
  const descriptor = openSync(path, 'r');
  let total = 0;
  for (let count = -1; count !== 0; total += count) count = readSync(descriptor, block, 0, block.length, null);
  closeSync(descriptor);
  return total / MIB;
}

/** What `ls -lR` does: names, then the attributes of each. */
function listTree(directory: string): number {
  let entries = 0;
  const handle = opendirSync(directory);
  for (let entry = handle.readSync(); entry !== null; entry = handle.readSync()) {
    const path = join(directory, entry.name);
    entries++;
    if (statSync(path).isDirectory()) entries += listTree(path);
  }
  handle.closeSync();
  return entries;
}

/**
 * Takes and gives up record locks of its own, `count` times: node has no fcntl. Prints the seconds. Nobody else locks the
 * file, so this is the price of a lock, not of waiting.
 */
const LOCK_PROGRAM = `
import fcntl, sys, time
with open(sys.argv[1], 'w') as file:
    started = time.monotonic()
    for i in range(int(sys.argv[2])):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, i)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, i)
    print(time.monotonic() - started)
`;

function lockRecords(path: string, count: number): { rate: number } {
  const seconds = Number(execFileSync('python3', ['-c', LOCK_PROGRAM, path, String(count)], { encoding: 'utf8' }));
  return { rate: count / seconds };
}

/** In this order: later ones use what earlier ones made. */
export const WORKS: readonly Work[] = [
  {
    name: 'sequential write, fsync',
    unit: 'MiB/s',
    ofDriver: true,
    // A new file each time: overwriting in place is other work.
    prepare: (directory) => rmSync(large(directory), { force: true }),
    run: (directory, { fileMiB }) => writeSequentially(large(directory), fileMiB),
  },
  {
    name: 'sequential read, cold',
    unit: 'MiB/s',
    cold: true,
    ofDriver: true,
    run: (directory) => readSequentially(large(directory)),
  },
  { name: 'sequential read, warm', unit: 'MiB/s', run: (directory) => readSequentially(large(directory)) },
  {
    name: '4 KiB files created',
    unit: '/s',
    prepare: (directory, { smallFiles }) => {
      rmSync(smallRoot(directory), { recursive: true, force: true });
      for (const path of smallPaths(directory, smallFiles)) mkdirSync(join(path, '..'), { recursive: true });
    },
    run: (directory, { smallFiles }) => {
      const bytes = noise(SMALL_FILE_BYTES);
      for (const path of smallPaths(directory, smallFiles)) writeFileSync(path, bytes);
      return smallFiles;
    },
  },
  {
    name: '4 KiB files read, cold',
    unit: '/s',
    cold: true,
    run: (directory, { smallFiles }) => {
      for (const path of smallPaths(directory, smallFiles)) {
        if (readFileSync(path).length !== SMALL_FILE_BYTES) throw new Error(`${path} has lost bytes`);
      }
      return smallFiles;
    },
  },
  { name: 'listed with attributes, cold', unit: '/s', cold: true, run: (directory) => listTree(smallRoot(directory)) },
  { name: 'listed with attributes, warm', unit: '/s', run: (directory) => listTree(smallRoot(directory)) },
  {
    name: 'stat, warm',
    unit: '/s',
    run: (directory, { smallFiles }) => {
      const passes = 5;
      for (let pass = 0; pass < passes; pass++) for (const path of smallPaths(directory, smallFiles)) statSync(path);
      return passes * smallFiles;
    },
  },
  {
    name: 'renamed',
    unit: '/s',
    run: (directory, { smallFiles }) => {
      for (const path of smallPaths(directory, smallFiles)) renameSync(path, `${path}-renamed`);
      return smallFiles;
    },
  },
  {
    name: 'deleted',
    unit: '/s',
    run: (directory, { smallFiles }) => {
      for (const path of smallPaths(directory, smallFiles, '-renamed')) unlinkSync(path);
      for (const folder of readdirSync(smallRoot(directory))) rmdirSync(join(smallRoot(directory), folder));
      rmdirSync(smallRoot(directory));
      return smallFiles;
    },
  },
  {
    name: 'empty files created',
    unit: '/s',
    ofDriver: true,
    prepare: (directory) => {
      rmSync(join(directory, 'empty'), { recursive: true, force: true });
      mkdirSync(join(directory, 'empty'));
    },
    run: (directory, { smallFiles }) => {
      for (let i = 0; i < smallFiles; i++) closeSync(openSync(join(directory, 'empty', `file-${i}`), 'wx'));
      return smallFiles;
    },
  },
  {
    name: 'empty files deleted (rm -r)',
    unit: '/s',
    run: (directory, { smallFiles }) => {
      rmSync(join(directory, 'empty'), { recursive: true });
      return smallFiles;
    },
  },
  {
    name: 'record locks taken and released',
    unit: '/s',
    run: (directory, { smallFiles }) => lockRecords(join(directory, 'locked'), smallFiles),
  },
];
