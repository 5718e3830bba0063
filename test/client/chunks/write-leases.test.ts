/** What a client knows of its leases, beside a master that grants what it is asked for. */
import t from 'tap';
import { WriteLeases } from '../../../src/client/chunks/write-leases.js';
import { inodeId } from '../../../src/core/ids.js';
import { MAX_CACHED_LEASES } from '../../../src/core/limits.js';
import type { LeaseChunkReply, LeaseChunkRequestInit } from '../../../src/protocol/generated/messages.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

function setUp(): { readonly leases: WriteLeases; readonly asked: LeaseChunkRequestInit[] } {
  const asked: LeaseChunkRequestInit[] = [];
  const ask = async (request: LeaseChunkRequestInit): Promise<LeaseChunkReply> => {
    asked.push(request);
    return {
      ...{ handle: request.inode ?? 0, version: 1, leaseId: asked.length, leaseTtlMs: 60_000, layoutVersion: 1 },
      ...{ primary: null, replicas: [], losses: 0, unsynced: false },
    };
  };
  return { leases: new WriteLeases(new ManualClock(), ask, () => undefined), asked };
}

t.test('P7: a doubt about a write stays until it is settled, whatever else is written meanwhile', async (t) => {
  const { leases, asked } = setUp();
  const file = inodeId(2);
  const lease = await leases.get(file, 0);
  leases.failed(file, 0, lease, 'inDoubt');
  for (let other = 0; other < 3 * MAX_CACHED_LEASES; other++) await leases.get(inodeId(3 + other), 0);
  t.ok(leases.hasDoubts(file));
  leases.sessionLost();
  t.ok(leases.hasDoubts(file));
  await leases.settleDoubts(file);
  t.notOk(leases.hasDoubts(file));
  t.match(asked.at(-1), { inode: file, index: 0, failedLease: lease.leaseId, failedVersion: lease.version });
});

t.test('what keeps holes, as a sync does, neither makes a chunk nor serves a write', async (t) => {
  const asked: LeaseChunkRequestInit[] = [];
  const told: number[] = [];
  const ask = async (request: LeaseChunkRequestInit): Promise<LeaseChunkReply> => {
    asked.push(request);
    const isHole = request.keepsHoles === true;
    return {
      ...{ handle: isHole ? 0 : 9, version: 1, leaseId: isHole ? 0 : asked.length, leaseTtlMs: 60_000 },
      ...{ layoutVersion: 1, primary: null, replicas: [], losses: 0, unsynced: !isHole },
    };
  };
  const leases = new WriteLeases(new ManualClock(), ask, (_inode, _index, { handle }) => told.push(handle));
  const file = inodeId(2);
  t.match(await leases.get(file, 0, true), { handle: 0, leaseId: 0, unsynced: false });
  t.same(told, [], 'nobody is told of a chunk');
  const both = await Promise.all([leases.get(file, 0, true), leases.get(file, 0)]);
  t.match(both, [{ handle: 0 }, { handle: 9 }]);
  t.match(await leases.get(file, 0, true), { handle: 9 }, 'there is one now');
  t.equal(asked.length, 3);
  leases.failed(file, 0, await leases.get(file, 0), 'inDoubt');
  await leases.settleDoubts(file);
  t.match(asked.at(-1), { keepsHoles: true }, 'nor does a question about a doubt');
  t.notOk(leases.hasDoubts(file));
});

t.test('P8: what is in doubt is bounded', async (t) => {
  const { leases } = setUp();
  let doubts = 0;
  const count = 4 * MAX_CACHED_LEASES;
  for (let inode = 1; inode <= count; inode++) {
    leases.failed(inodeId(inode), 0, await leases.get(inodeId(inode), 0), 'inDoubt');
  }
  for (let inode = 1; inode <= count; inode++) if (leases.hasDoubts(inodeId(inode))) doubts++;
  t.ok(doubts >= MAX_CACHED_LEASES / 2 && doubts <= 2 * MAX_CACHED_LEASES, `${doubts} doubts`);
});
