/** The open files of a server: how many there are, who keeps one open, and when it is closed. */
import t from 'tap';
import { DataDirectories } from '../../../src/chunkserver/disks/data-directories.js';
import { ChunkFile } from '../../../src/chunkserver/chunk/chunk-file.js';
import { OpenChunks } from '../../../src/chunkserver/store/open-chunks.js';
import type { IndexEntry } from '../../../src/chunkserver/store/replica-index.js';
import type { DiskFile } from '../../../src/core/disk/disk.js';
import { chunkHandle, chunkVersion } from '../../../src/core/ids.js';
import { MAX_OPEN_CHUNK_FILES } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { DiskWatch } from '../../../src/chunkserver/disks/disk-watch.js';
import { SeededRandom } from '../../../src/core/random.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { eventually } from '../../support/eventually.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

const version = chunkVersion(1);
const entryOf = (handle: number): IndexEntry => ({
  ...{ handle: chunkHandle(handle), version, directory: 0, suspect: false },
});

class CountingDisk extends CrashDisk {
  openFiles = 0;

  override async open(...args: Parameters<CrashDisk['open']>): Promise<DiskFile> {
    const file = await super.open(...args);
    const close = file.close.bind(file);
    this.openFiles++;
    file.close = () => {
      this.openFiles--;
      return close();
    };
    return file;
  }
}

async function setUp(): Promise<{ disk: CountingDisk; chunks: OpenChunks; make: (handle: number) => Promise<void> }> {
  const random = new SeededRandom(1);
  const disk = new CountingDisk(random);
  const watch = new DiskWatch({ disk, clock: new ManualClock(), logger: silentLogger, paths: ['d'] });
  const directories = new DataDirectories({
    ...{ watch, disk, bootNotes: new MemoryNotes(), random, logger: silentLogger, paths: ['d'] },
    onFailure: () => undefined,
    onDoubt: () => undefined,
    forget: [],
  });
  await directories.open(() => Promise.resolve());
  const chunks = new OpenChunks({
    ...{ disk, logger: silentLogger, directories },
    onOtherVersion: () => Promise.reject(new Error('no file here has another version')),
  });
  const make = async (handle: number): Promise<void> => {
    const file = await ChunkFile.create(disk, directories.pathOf(entryOf(handle)), chunkHandle(handle), version);
    await file.close();
  };
  return { disk, chunks, make };
}

t.test('as many as the limit, least recently used closed first, and none that is in use', async (t) => {
  const { disk, chunks, make } = await setUp();
  for (let handle = 1; handle <= MAX_OPEN_CHUNK_FILES + 2; handle++) await make(handle);
  const inUse = chunks.pin(entryOf(1));
  await inUse.file;
  for (let handle = 2; handle <= MAX_OPEN_CHUNK_FILES; handle++) {
    const chunk = chunks.pin(entryOf(handle));
    await chunk.file;
    chunks.unpin(chunk);
  }
  t.equal(disk.openFiles, MAX_OPEN_CHUNK_FILES);
  chunks.unpin(chunks.pin(entryOf(2))); // used again: 3 is the oldest now
  for (const handle of [MAX_OPEN_CHUNK_FILES + 1, MAX_OPEN_CHUNK_FILES + 2]) {
    const chunk = chunks.pin(entryOf(handle));
    await chunk.file;
    chunks.unpin(chunk);
  }
  await eventually('the older ones to be closed', () => disk.openFiles === MAX_OPEN_CHUNK_FILES);
  t.ok(chunks.get(chunkHandle(1)), 'in use');
  t.ok(chunks.get(chunkHandle(2)), 'used lately');
  t.notOk(chunks.get(chunkHandle(3)));
  t.notOk(chunks.get(chunkHandle(4)));
  await chunks.stop();
  t.equal(disk.openFiles, 1, 'all but the one in use');
  chunks.unpin(inUse);
  t.equal(disk.openFiles, 0);
});

t.test('one that is retired stays open for its users, and closes once', async (t) => {
  const { disk, chunks, make } = await setUp();
  await make(1);
  const [first, second] = [chunks.pin(entryOf(1)), chunks.pin(entryOf(1))];
  t.equal(first, second);
  const file = await first.file;
  const closed = [chunks.retire(first), chunks.retire(first)];
  chunks.unpin(first);
  t.equal((await file.read(0, 1)).bytes.length, 0, 'the other user still reads');
  t.equal(disk.openFiles, 1);
  chunks.unpin(second);
  await Promise.all(closed);
  t.equal(disk.openFiles, 0);
});

t.test('a file that could not be opened is tried again by the next user', async (t) => {
  const { chunks, make } = await setUp();
  const failed = chunks.pin(entryOf(1));
  await t.rejects(failed.file, { code: 'ENOENT' });
  chunks.unpin(failed);
  await make(1);
  const chunk = chunks.pin(entryOf(1));
  t.equal((await chunk.file).handle, 1);
  chunks.unpin(chunk);
  await chunks.stop();
});
