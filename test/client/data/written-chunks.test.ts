/** Which writes a sync that was sent behind them covers (P1). */
import t from 'tap';
import { inodeId } from '../../../src/core/ids.js';
import type { Serial, SyncMark } from '../../../src/client/chunks/chunk-io.js';
import { WrittenChunks } from '../../../src/client/data/written-chunks.js';
import { WriteFailures } from '../../../src/client/data/write-failures.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const INODE = inodeId(2);
const at = (leaseId: number, serial: number): Serial => ({ leaseId, serial });

function writtenChunks() {
  const io = {
    generation: 0,
    /** Syncs that were made behind the answers to the writes. */
    syncs: 0,
    syncChunk: (): Promise<SyncMark> => {
      io.syncs++;
      return Promise.resolve(markOf());
    },
  };
  const markOf = (serial?: Serial): SyncMark => ({
    ...{ handle: 1, losses: 0, generation: io.generation, unsynced: false },
    ...(serial === undefined ? {} : { serial }),
  });
  const chunks = new WrittenChunks(
    INODE,
    io,
    new WriteFailures({ inode: INODE, clock: new ManualClock(), logger: silentLogger }),
  );
  const sync = async (ahead?: SyncMark): Promise<number> => {
    const before = io.syncs;
    const syncs = new Map(ahead === undefined ? [] : [[0, { unsynced: false, mark: Promise.resolve(ahead) }]]);
    const taken = chunks.take();
    await chunks.sync(taken, syncs, 0);
    chunks.done();
    return io.syncs - before;
  };
  return { io, chunks, markOf, sync };
}

t.test('P1: a sync ahead counts when its serial says that it is behind all writes since the last', async (t) => {
  const { io, chunks, markOf, sync } = writtenChunks();
  const written = (...serials: (Serial | undefined)[]): void => {
    for (const serial of serials) chunks.note(0, markOf(serial));
  };
  written(at(5, 1), at(5, 3), at(5, 2));
  t.equal(await sync(markOf(at(5, 3))), 0);
  written(at(5, 4));
  t.equal(await sync(markOf(at(5, 3))), 1, 'it came before the write');
  written(at(5, 4));
  t.equal(await sync(), 1, 'there is none');
  written(at(6, 1));
  t.equal(await sync(markOf(at(5, 9))), 1, 'under another lease');
  written(at(5, 5), at(6, 1));
  t.equal(await sync(markOf(at(6, 1))), 1, 'one of them under another lease');
  written(at(6, 2), undefined, at(6, 3));
  t.equal(await sync(markOf(at(6, 3))), 1, 'one of them a copy by the chunkservers, or by an older one');
  written(at(6, 4));
  t.equal(await sync(markOf()), 1, 'the server does not tell');
  written(at(6, 5));
  const before = markOf(at(6, 5));
  io.generation++;
  t.equal(await sync(before), 1, 'the master lost power meanwhile');
  written(at(6, 6));
  const { marks } = chunks.take();
  chunks.putBack(marks, 1);
  written(at(6, 7));
  t.equal(await sync(markOf(at(6, 7))), 1, 'an earlier one failed');
  written(at(6, 8));
  chunks.cut(0);
  t.equal(await sync(markOf(at(6, 8))), 0, 'nothing is left');
});
