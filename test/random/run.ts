/** Several workers at once on the same mounts, each in a directory of its own, until they have made their operations. */
import assert from 'node:assert/strict';
import type { Test } from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import type { InodeId } from '../../src/core/ids.js';
import { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import type { FileSystem } from '../../src/filesystem/filesystem.js';
import { Difference } from './difference.js';
import { runWorker } from './worker.js';

type TapTest = Pick<Test, 'comment' | 'pass' | 'fail'>;

export interface RunOptions {
  readonly seed: number;
  readonly mounts: readonly FileSystem[];
  readonly operations: number;
  readonly workers: number;
  /** As of WorkOptions. */
  readonly strict: boolean;
  readonly believedMs: number;
  readonly onOperation?: () => void;
  readonly forget?: (mount: number, inode: InodeId) => Promise<void>;
}

/** Runs it in a test, which fails with the seed and what led to a difference. */
export async function testRandomOperations(t: TapTest, options: RunOptions): Promise<void> {
  const started = performance.now();
  let made = 0;
  const onOperation = (): void => {
    made++;
    options.onOperation?.();
  };
  try {
    await runRandomOperations({ ...options, onOperation });
    t.pass('no difference');
  } catch (error) {
    if (!(error instanceof Difference)) throw error;
    for (const line of error.message.split('\n')) t.comment(line);
    t.fail(`a difference: CAIRN_SEED=${options.seed} repeats the operations`);
  } finally {
    const seconds = (performance.now() - started) / 1000;
    t.comment(`${made} operations in ${Math.round(seconds)} s, ${Math.round(made / seconds)}/s`);
  }
}

/** Returns how many operations were made. Throws a Difference, and then the other workers make no more. */
export async function runRandomOperations(options: RunOptions): Promise<number> {
  const { mounts, workers, strict, believedMs, forget } = options;
  const random = new SeededRandom(options.seed);
  let failed = false;
  const onOperation = (): void => {
    if (failed) throw new Error('another worker failed');
    options.onOperation?.();
  };
  const work = async (index: number): Promise<number> => {
    const name = Buffer.from(`worker-${index}`);
    const seed = random.below(2 ** 32);
    try {
      const home: InodeId[] = [];
      for (const mount of mounts) home.push(await homeOn(mount, name, home.length === 0));
      return await runWorker({
        ...{ name: name.toString(), random: new SeededRandom(seed), home },
        ...{ mounts, strict, believedMs, onOperation, forget },
        operations: Math.ceil(options.operations / workers),
      });
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  const all = await Promise.allSettled(Array.from({ length: workers }, (_, index) => work(index)));
  let sum = 0;
  for (const each of all) {
    if (each.status === 'rejected' && !String(each.reason).includes('another worker failed')) throw each.reason;
    if (each.status === 'fulfilled') sum += each.value;
  }
  assert.ok(sum >= options.operations, 'all operations were made');
  return sum;
}

async function homeOn(mount: FileSystem, name: Buffer, make: boolean): Promise<InodeId> {
  if (!make) return (await mount.lookup(ROOT_CREDENTIALS, ROOT_INODE, name)).inode;
  const node = { kind: 'directory', mode: 0o777 } as const;
  return (await mount.makeNode(ROOT_CREDENTIALS, ROOT_INODE, name, node)).inode;
}
