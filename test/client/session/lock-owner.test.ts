/** What one owner of locks remembers, beside a master that answers when the test says so. */
import t from 'tap';
import { LockOwner } from '../../../src/client/session/lock-owner.js';
import { LockWaits } from '../../../src/client/session/lock-waits.js';
import type { MasterConnection } from '../../../src/client/session/master-connection.js';
import { CairnError } from '../../../src/core/errors.js';
import { inodeId } from '../../../src/core/ids.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { SeededRandom } from '../../../src/core/random.js';
import { deferred, type Deferred } from '../../../src/core/sync.js';
import type { LockRequest } from '../../../src/filesystem/filesystem.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const BYTES = { kind: 'posix', start: 0, end: 99, owner: 'p', pid: 1 } as const;
const WRITE: LockRequest = { ...BYTES, type: 'write' };
const READ: LockRequest = { ...BYTES, type: 'read' };

for (const isLost of [false, true]) {
  const left = isLost ? 'nothing, if its session was lost meanwhile' : 'what it had';
  t.test(`P7: an owner whose request is refused has ${left}`, async (t) => {
    const answers: Deferred<unknown>[] = [];
    const call = (): Promise<unknown> => {
      const answer: Deferred<unknown> = deferred();
      answers.push(answer);
      return answer.promise;
    };
    const master = { call, isClosing: false } as unknown as MasterConnection;
    const options = {
      ...{ master, clock: new ManualClock(), random: new SeededRandom(1), logger: silentLogger },
      requireUsable: () => undefined,
      publish: () => Promise.resolve(),
      moment: () => 0,
      refresh: () => Promise.resolve(),
    };
    const owner = new LockOwner(inodeId(2), 'posix', 'p', new LockWaits(options), options, () => undefined);
    const set = async (request: LockRequest, answer: (asked: Deferred<unknown>) => void): Promise<void> => {
      const setting = owner.set(request, { wait: false });
      while (answers.length === 0) await Promise.resolve();
      const [asked] = answers.splice(0);
      if (asked !== undefined) answer(asked);
      await setting;
    };
    await set(WRITE, (asked) => asked.resolve({ granted: true, attributes: null }));
    t.equal([...owner.states()].length, 1);
    const refused = set(READ, (asked) => {
      if (isLost) owner.sessionLost();
      asked.reject(new CairnError('EAGAIN', 'planted'));
    });
    await t.rejects(refused, { code: 'EAGAIN' });
    t.equal([...owner.states()].length, isLost ? 0 : 1, 'told to the master after a reconnect');
  });
}
