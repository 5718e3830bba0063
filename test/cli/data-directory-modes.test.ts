/** A data directory of a chunkserver is its own user's only, also one that was there before (P12). */
import { chmod, mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { makeDiskPrivate } from '../../src/cli/machine/make-directories.js';

t.test('P12: a data directory that others could read is closed to them', async (t) => {
  const path = await mkdtemp(join(tmpdir(), 'cairn-modes-'));
  t.teardown(() => rm(path, { recursive: true }));
  await mkdir(join(path, 'chunks'));
  for (const each of [path, join(path, 'chunks')]) await chmod(each, 0o755);
  await makeDiskPrivate(path);
  for (const each of [path, join(path, 'chunks')]) t.equal((await stat(each)).mode & 0o777, 0o700, each);
  await t.rejects(makeDiskPrivate(join(path, 'missing')), { code: 'ENOENT' });
});
