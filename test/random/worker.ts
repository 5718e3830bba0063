/** One worker: draws operation after operation, and hands its work from mount to mount. */
import { setTimeout as pause } from 'node:timers/promises';
import { acl, access, chmod, chown, statFs, truncate, utimes, xattr } from './operations/attributes.js';
import { flushAll } from './coherence.js';
import {
  allocate,
  append,
  close,
  copy,
  flush,
  open,
  read,
  readAgain,
  readOn,
  seek,
  truncateOpen,
  write,
} from './operations/data.js';
import { lock } from './operations/locks.js';
import {
  create,
  createTemporary,
  link,
  list,
  lookup,
  makeNode,
  readLink,
  remove,
  rename,
  symlink,
} from './operations/names.js';
import { compareTrees } from './trees.js';
import { Work } from './work.js';
import type { WorkOptions } from './work.js';

/** How often each operation is drawn. */
const OPERATIONS: readonly (readonly [weight: number, operation: (work: Work) => Promise<void>])[] = [
  ...([
    [9, create],
    [1, createTemporary],
    [5, makeNode],
    [2, symlink],
    [1, readLink],
    [4, link],
    [7, remove],
  ] as const),
  ...([
    [9, rename],
    [3, lookup],
    [3, (work: Work) => list(work)],
  ] as const),
  ...([
    [3, chmod],
    [2, chown],
    [2, utimes],
    [3, truncate],
    [2, access],
    [4, xattr],
    [3, acl],
    [1, statFs],
  ] as const),
  ...([
    [7, open],
    [16, write],
    [9, read],
    [7, readOn],
    [6, append],
    [2, readAgain],
    [3, truncateOpen],
    [4, allocate],
    [3, copy],
    [2, seek],
  ] as const),
  ...([
    [4, flush],
    [5, close],
    [4, lock],
  ] as const),
];
const TOTAL_WEIGHT = OPERATIONS.reduce((sum, [weight]) => sum + weight, 0);

/** Operations between two comparisons of the whole tree. */
const OPERATIONS_BETWEEN_TREES = 2_500;
/** Longest burst of operations on one mount, where the other has to wait until it may not believe old names any more. */
const BURST_OPERATIONS = 1_500;
const STRICT_BURST_OPERATIONS = 4;

export interface WorkerOptions extends WorkOptions {
  readonly operations: number;
  /** How long a mount may believe names and attributes that another has changed. */
  readonly believedMs: number;
}

export async function runWorker(options: WorkerOptions): Promise<number> {
  const work = new Work(options);
  const { random } = work;
  let [untilTrees, untilHandOver] = [OPERATIONS_BETWEEN_TREES, 0];
  while (work.operations < options.operations) {
    if (work.operations >= untilTrees) {
      if (!work.strict) await handOver(work, options.believedMs);
      await compareTrees(work);
      untilTrees = work.operations + OPERATIONS_BETWEEN_TREES;
    }
    if (work.operations >= untilHandOver) {
      untilHandOver = work.operations + 1 + random.below(work.strict ? STRICT_BURST_OPERATIONS : BURST_OPERATIONS);
      if (!work.strict) await handOver(work, options.believedMs);
      work.mount = random.below(work.mountCount);
    }
    await draw(work)(work);
  }
  await handOver(work, options.believedMs);
  await compareTrees(work);
  for (const handle of work.handles) {
    work.mount = handle.mount;
    await close(work, handle);
  }
  return work.operations;
}

function draw({ random }: Work): (work: Work) => Promise<void> {
  let choice = random.below(TOTAL_WEIGHT);
  for (const [weight, operation] of OPERATIONS) if ((choice -= weight) < 0) return operation;
  throw new RangeError('no operation was drawn');
}

async function handOver(work: Work, believedMs: number): Promise<void> {
  await flushAll(work);
  await pause(believedMs);
  work.settled();
}
