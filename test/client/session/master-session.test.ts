/** What a client makes of its holdings when it comes back to the master, the same or another. */
import t from 'tap';
import { Holdings, Moments } from '../../../src/client/session/holdings.js';
import { MasterSession } from '../../../src/client/session/master-session.js';
import { OperationIds } from '../../../src/client/session/operation-ids.js';
import { inodeId, type InodeId } from '../../../src/core/ids.js';
import { HOLDING_VALID_MS } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import type { OpenSessionReplyInit, ReclaimRequestInit } from '../../../src/protocol/generated/messages.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import type { Peer } from '../../../src/protocol/rpc.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const DIRECTORY = inodeId(7);
const FILE = inodeId(8);

interface Told {
  readonly ended: (readonly InodeId[] | undefined)[];
  readonly reclaimed: ReclaimRequestInit[];
}

async function comeBack(
  reply: OpenSessionReplyInit,
  grants: readonly number[] = [],
): Promise<Told & { readonly holdings: Holdings; readonly validMs: number[] }> {
  const clock = new ManualClock();
  const moments = new Moments();
  const holdings = new Holdings(clock, moments, true);
  const told: Told = { ended: [], reclaimed: [] };
  const validMs: number[] = [];
  const session = new MasterSession(
    {
      ...{ logger: silentLogger, clientName: 'test', opens: () => [], locks: () => [], appends: () => [], holdings },
      ...{ onReclaimed: () => undefined, onSessionLost: () => undefined, onOperationsLost: () => undefined },
      onHoldingsEnded: (inodes) => {
        told.ended.push(inodes);
        if (inodes === undefined) holdings.endAll();
        return undefined;
      },
    },
    new OperationIds(() => 0),
    () => undefined,
  );
  let answer: OpenSessionReplyInit = {
    ...{ sessionId: 1, epoch: 1, lossEpoch: 1, resumed: false, holdings: 5, token: Buffer.alloc(32) },
    ...{ masterTime: null, mark: null, partedFrom: 0, partedBelow: 0, clusterId: 'c' },
  };
  const peer = {
    call: (method: { readonly number: number }, request: ReclaimRequestInit) => {
      if (method.number === MASTER_METHODS.openSession.number) return Promise.resolve({ reply: answer });
      validMs.push(holdings.validMs);
      told.reclaimed.push(request);
      return Promise.resolve({ reply: { lostAppends: [], grants } });
    },
  } as unknown as Peer;
  await session.open(peer);
  holdings.take(DIRECTORY, 1, moments.now());
  holdings.take(FILE, 2, moments.now());
  clock.advance(HOLDING_VALID_MS - 1_000);
  answer = { ...answer, resumed: true, ...reply };
  told.ended.length = 0;
  await session.open(peer);
  return { ...told, holdings, validMs };
}

t.test('the same master, which did not give the client up: all goes on', async (t) => {
  const { ended, reclaimed, holdings } = await comeBack({});
  t.same(ended, []);
  t.same(reclaimed, [{ done: true }]);
  t.equal(holdings.validMs, HOLDING_VALID_MS);
});

t.test('a new master is told, and nothing is believed for longer until it has answered', async (t) => {
  const { ended, reclaimed, holdings, validMs } = await comeBack({ epoch: 2, holdings: 6 }, [11, 0]);
  t.same(reclaimed, [{ holdings: [DIRECTORY, FILE] }, { done: true }]);
  t.same(ended, [[FILE]], 'it was refused');
  t.same(validMs, [1_000, 1_000], 'what the master before allowed');
  t.equal(holdings.validMs, HOLDING_VALID_MS);
  t.same(holdings.inodes(), [DIRECTORY]);
});

t.test('nothing stands when the master gave the client up, lost changes, or began a new session', async (t) => {
  for (const reply of [{ holdings: 6 }, { epoch: 2, lossEpoch: 2, holdings: 6 }, { resumed: false, holdings: 6 }]) {
    const { ended, holdings } = await comeBack(reply);
    t.same(ended, [undefined], JSON.stringify(reply));
    t.equal(holdings.size, 0);
  }
});
