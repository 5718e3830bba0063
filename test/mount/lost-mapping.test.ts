/**
 * P7: what a program wrote to mappings under a lock, and the kernel has not handed to the mount when that has lost its session,
 * and the lock with it, does not come behind what the next holder of the lock wrote.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { MAX_LOCK_END } from '../../src/core/lock-ranges.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import type { OpenFile } from '../../src/filesystem/filesystem.js';
import { equalBytes, name, READ_WRITE } from '../conformance/case.js';
import { ProcessCluster } from '../support/process-cluster.js';

const run = promisify(execFile);
const SOURCE = fileURLToPath(new URL('../../../test/mount/lost-mapping.c', import.meta.url));
const BYTES = 4096;
const LIMIT_MS = 150_000;
const EIO = 5;
t.setTimeout(LIMIT_MS);

const skip = process.getuid?.() !== 0 && 'only root may mount by itself';

t.test('P7: mappings that were written under a lock that was lost', { skip, timeout: LIMIT_MS }, async (t) => {
  const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: LIMIT_MS });
  const mountpoint = await cluster.mount();
  const other = await cluster.client();
  const files: OpenFile[] = [];
  for (const text of ['locked', 'beside']) {
    const { file } = await other.create(root, ROOT_INODE, name(text), { mode: 0o644, flags: READ_WRITE });
    await file.write(0, Buffer.alloc(BYTES, '-'));
    await file.sync();
    files.push(file);
  }
  const [locked] = files;
  assert.ok(locked !== undefined);
  const program = join(cluster.directory.path, 'lost-mapping');
  await run('cc', ['-O1', '-o', program, SOURCE]);
  const child = spawn(program, [`${mountpoint}/locked`, `${mountpoint}/beside`]);
  t.teardown(() => child.kill('SIGKILL'));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<string> => {
    const { value } = (await lines.next()) as IteratorResult<string, undefined>;
    return value ?? assert.fail('the program has ended');
  };
  assert.equal(await answer(), 'ready');

  const pid = (await cluster.pids()).get('mount-0') ?? assert.fail('the mount does not run');
  process.kill(pid, 'SIGSTOP');
  t.teardown(() => process.kill(pid, 'SIGCONT'));
  const lock = { kind: 'posix', owner: 'next', type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 } as const;
  const granted = other.setLock(locked.inode, lock, { wait: true });
  await pause(50_000);
  child.stdin.write('write\n');
  assert.equal(await answer(), 'done');
  await granted;
  for (const file of files) {
    equalBytes(await file.read(0, BYTES), Buffer.alloc(BYTES, 'a'), 'what was synced under the lock');
    await file.write(0, Buffer.alloc(BYTES, 'B'));
    await file.sync();
  }
  process.kill(pid, 'SIGCONT');
  await pause(3_000);
  child.stdin.write('sync\n');
  const outcomes = (await answer()).split(' ').slice(0, 6).map(Number);
  const fresh = await cluster.client();
  for (const text of ['locked', 'beside']) {
    const { file } = await fresh.openAt(root, ROOT_INODE, name(text), READ_WRITE);
    equalBytes(
      await file.read(0, BYTES),
      Buffer.alloc(BYTES, 'B'),
      `${text}: msync, fsync, close: ${outcomes.join(' ')}`,
    );
    await file.close();
  }
  assert.ok(outcomes.slice(0, 3).includes(EIO) && outcomes.slice(3).includes(EIO), `told: ${outcomes.join(' ')}`);
});
