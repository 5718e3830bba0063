/**
 * What a row of the table is: a piece of work that is done in one directory after another, and its unit. The files beside
 * this one have the rows, a group each; index.ts has them in their order.
 */
import { execFileSync } from 'node:child_process';

/** How much is done. `sizesAt` has the numbers. */
export interface Sizes {
  /** Of the large file, a multiple of 4. */
  readonly largeMiB: number;
  readonly randomReads: number;
  readonly randomWrites: number;
  readonly appends: number;
  /** In the tree of small files, and as many empty ones. A multiple of 4. */
  readonly smallFiles: number;
  readonly missingNames: number;
  readonly locks: number;
  /** In the source tree, with the compiler's. */
  readonly treeFiles: number;
  readonly transactions: number;
}

/** Where a row works. */
export interface Place {
  /** Its own, in the target; it exists. */
  readonly directory: string;
  readonly sizes: Sizes;
  /** A tar archive of the source tree, on a local disk: see source-tree.ts. */
  readonly archive: string;
  /** A local directory, for programs that a row compiles. */
  readonly scratch: string;
  /** Process ids of the target's servers and mount, as far as the bench knows them. */
  readonly processes: readonly number[];
}

/** MiB and operations a second, or the seconds that all of it takes. */
export type Unit = 'MiB/s' | '/s' | 's';

/** What is measured. Returns how many units it did; nothing for rows in seconds. */
export type Work = () => number | void | Promise<number | void>;

export interface Row {
  readonly name: string;
  readonly unit: Unit;
  /** Names of rows that leave behind what this one works on, or take away what is in its way. */
  readonly needs?: readonly string[];
  /** The caches of kernel and servers are dropped before. */
  readonly cold?: true;
  /** Done once before it is measured, so that it finds the caches full. */
  readonly warm?: true;
  /** Does what is not measured and returns what is. It runs in a process of its own (worker.ts), as a user's program does. */
  readonly start: (place: Place) => Work | Promise<Work>;
}

const MIN_SIZES: Sizes = {
  ...{ largeMiB: 4, randomReads: 20, randomWrites: 20, appends: 5, smallFiles: 20, missingNames: 20, locks: 20 },
  ...{ treeFiles: 300, transactions: 5 },
};

const FULL_SIZES: Sizes = {
  ...{ largeMiB: 512, randomReads: 1000, randomWrites: 4000, appends: 200, smallFiles: 1000, missingNames: 2000 },
  ...{ locks: 1000, treeFiles: 25_000, transactions: 300 },
};

/** `scale` 1 is the full measurement. Nothing gets so small that a row does nothing. */
export function sizesAt(scale: number): Sizes {
  const size = (of: keyof Sizes): number => Math.max(MIN_SIZES[of], 4 * Math.round((FULL_SIZES[of] * scale) / 4));
  return {
    ...{ largeMiB: size('largeMiB'), randomReads: size('randomReads'), randomWrites: size('randomWrites') },
    ...{ appends: size('appends'), smallFiles: size('smallFiles'), missingNames: size('missingNames') },
    ...{ locks: size('locks'), treeFiles: size('treeFiles'), transactions: size('transactions') },
  };
}

/** Runs a real program; what it prints on standard output is dropped, and it throws what it says on standard error. */
export function run(program: string, args: readonly string[], options: { input?: string } = {}): void {
  try {
    execFileSync(program, args, {
      input: options.input,
      stdio: [options.input === undefined ? 'ignore' : 'pipe', 'ignore', 'pipe'],
      env: PROGRAM_ENVIRONMENT,
    });
  } catch (error) {
    const { stderr, code, status } = error as { stderr?: Buffer; code?: string; status?: number };
    if (code === 'ENOENT') throw new Error(`${program} is not installed`, { cause: error });
    const said = stderr?.toString().trim();
    throw new Error(said || `${program} ended with ${status ?? code}`, { cause: error });
  }
}

/** No settings of whoever measures: they would change what git does, or how names are sorted. */
const PROGRAM_ENVIRONMENT: NodeJS.ProcessEnv = {
  PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
  ...{ LC_ALL: 'C', GIT_CONFIG_GLOBAL: '/dev/null', GIT_CONFIG_SYSTEM: '/dev/null' },
  ...{ GIT_AUTHOR_NAME: 'bench', GIT_AUTHOR_EMAIL: 'bench@example.org' },
  ...{ GIT_COMMITTER_NAME: 'bench', GIT_COMMITTER_EMAIL: 'bench@example.org' },
};

/** Bytes that no layer can compress or share, made without a random source: the same in every run. */
export function noise(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  const next = numbers(0x9e3779b9);
  for (let at = 0; at + 4 <= length; at += 4) bytes.writeInt32LE(next() | 0, at);
  return bytes;
}

/** Whole numbers from 0 to 2^32 - 1 that only `seed` gives (xorshift). */
export function numbers(seed: number): () => number {
  let x = seed | 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}
