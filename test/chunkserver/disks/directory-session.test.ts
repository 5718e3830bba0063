/** What a data directory says of itself changes when it is on the disk, and not before. */
import t from 'tap';
import { DirectoryBoot } from '../../../src/chunkserver/disks/directory-boot.js';
import { DirectorySession } from '../../../src/chunkserver/disks/directory-session.js';
import { JsonFiles } from '../../../src/chunkserver/disks/json-files.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

async function begin(disk: CrashDisk, bootId = 'b'): Promise<DirectorySession> {
  const boot = new DirectoryBoot({ bootNotes: new MemoryNotes(), bootId, path: '/d', logger: silentLogger });
  const session = new DirectorySession(new JsonFiles(disk, '/d'), boot);
  await session.begin(undefined);
  return session;
}

t.test('the end of a rollback that could not be written down is none', async (t) => {
  const disk = new CrashDisk(new SeededRandom(1));
  const session = await begin(disk);
  await session.beginRollback();
  disk.failOn('directory.session');
  await t.rejects(session.endRollback(7));
  t.ok(session.rolledBack);
  t.equal(session.generation, 0);
  await session.endRollback(7);
  t.notOk(session.rolledBack);
  t.equal(session.generation, 8);
  t.equal((await begin(disk)).foundGeneration, 8);
});

t.test('a write that was under way when a rollback ends takes no generation back', async (t) => {
  const disk = new CrashDisk(new SeededRandom(2));
  await begin(disk, 'before');
  const session = await begin(disk);
  t.ok(session.lostPower);
  await session.beginRollback();
  await Promise.all([session.lessenDoubt(0), session.endRollback(7)]);
  t.equal(session.generation, 8);
  const again = await begin(disk);
  t.match(again, { foundGeneration: 8, rolledBack: false, lostPower: false, trusted: true });
});

t.test('a doubt that could not be lessened is there at the next start, and is lessened later', async (t) => {
  const disk = new CrashDisk(new SeededRandom(3));
  await begin(disk, 'before');
  const session = await begin(disk);
  disk.failOn('directory.session');
  await t.rejects(session.lessenDoubt(0));
  t.ok((await begin(disk)).lostPower);
  await session.lessenDoubt(0);
  t.notOk((await begin(disk)).lostPower);
});
