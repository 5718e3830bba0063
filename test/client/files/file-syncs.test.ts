/** What is remembered of files that were closed, against a master that answers when the test says so. */
import t from 'tap';
import { AttributeCache } from '../../../src/client/inodes/attribute-cache.js';
import { Holdings, Moments } from '../../../src/client/session/holdings.js';
import { KnownInodes } from '../../../src/client/inodes/known-inodes.js';
import type { InodeAttributes } from '../../../src/client/session/wire-attributes.js';
import { WriteBudget } from '../../../src/client/data/write-budget.js';
import { Writer } from '../../../src/client/data/writer.js';
import { FileSyncs } from '../../../src/client/files/file-syncs.js';
import { CairnError } from '../../../src/core/errors.js';
import { inodeId } from '../../../src/core/ids.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const INODE = inodeId(7);
const MARK = { handle: 1, losses: 0, generation: 0, unsynced: false };
const IO = {
  ...{ prepare: () => undefined, settleDoubts: () => undefined, noteSynced: () => undefined, generation: 0 },
  ...{ writeRange: () => Promise.resolve(MARK), syncChunk: () => Promise.resolve(MARK) },
  markOf: () => Promise.resolve(MARK),
  syncAhead: () => undefined,
  writeBatch: (_inode: number, _index: number, writes: readonly unknown[]) => Promise.resolve(writes.map(() => MARK)),
};
const noHoldings = (clock: ManualClock): Holdings => new Holdings(clock, new Moments(), false);
const TIME = { seconds: 0, nanoseconds: 0 };
const attributesAt = (change: number): InodeAttributes => ({
  ...{ inode: INODE, mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 0, allocatedBytes: 0, change },
  ...{
    atime: TIME,
    mtime: TIME,
    ctime: TIME,
    layoutVersion: change,
    hasAcl: false,
    hasXattrs: false,
    heldBy: INODE,
    grant: 0,
  },
});

t.test('P1: the late answer to a cut forgets no close that could not tell what was written behind it', async (t) => {
  const clock = new ManualClock();
  const inodes: KnownInodes = new KnownInodes({
    ...{
      clock,
      cache: new AttributeCache({ clock }),
      holdings: noHoldings(clock),
      onNewer: () => undefined,
      onChanged: () => undefined,
      onKeptRead: () => undefined,
    },
    master: { call: () => Promise.reject(new CairnError('EIO', 'not to be asked')) },
    onCut: (attributes, asked) => syncs.cut(attributes, asked),
  });
  const syncs = new FileSyncs({
    ...{ inodes, io: IO },
    master: { call: () => Promise.reject(new CairnError('EIO', 'not to be asked')), sync: () => Promise.resolve() },
  });
  const closeInVain = async (change: number): Promise<void> => {
    const writer = new Writer({
      ...{ inode: INODE, clock, logger: silentLogger, budget: new WriteBudget(), io: IO },
      attributes: () => attributesAt(change),
      publish: () => Promise.reject(new CairnError('ENOSPC', 'the disk of the master is full')),
      syncMetadata: () => Promise.resolve(),
      onWritten: () => undefined,
    });
    await writer.write(0, Buffer.from('x'));
    await t.rejects(writer.flush(), { code: 'ENOSPC' });
    syncs.closed(attributesAt(change), writer);
    writer.dispose();
  };
  const asked = inodes.moment;
  // Opened before the master has cut the file, and written after that.
  await closeInVain(5);
  inodes.layoutChanged(attributesAt(6), asked);
  await t.rejects(syncs.syncFile(INODE, undefined), { code: 'EIO' });
  await syncs.syncFile(INODE, undefined);
  await closeInVain(6);
  inodes.layoutChanged(attributesAt(7), inodes.moment);
  // P7: what was written is not wanted any more.
  await syncs.syncFile(INODE, undefined);
});
