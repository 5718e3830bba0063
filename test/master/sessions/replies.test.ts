/** P6, P11: the replies that are kept for a session, when one of its changes waits for long. */
import t from 'tap';
import { sessionId } from '../../../src/core/ids.js';
import { MAX_STORED_REPLIES } from '../../../src/core/limits.js';
import { PendingMutation } from '../../../src/master/state/mutation.js';
import { ReplyLedger } from '../../../src/master/sessions/replies.js';
import type { Mutation, State } from '../../../src/master/state/state.js';
import { SortedMap } from '../../../src/master/store/sorted-map.js';
import type { KeyRange } from '../../../src/master/store/store.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';

function memoryState(): State {
  const values = new SortedMap<Uint8Array>();
  const reader = { get: (key: string) => values.get(key), range: (range: KeyRange) => values.range(range) };
  const mutate = <T>(decide: (m: Mutation) => T): T => {
    const pending = new PendingMutation(reader);
    const result = decide(pending);
    for (const [key, value] of pending.changes) {
      if (value === null) values.delete(key);
      else values.set(key, value);
    }
    return result;
  };
  const mutateIfRoom = (decide: (m: Mutation) => void): boolean => {
    mutate(decide);
    return true;
  };
  return { ...reader, mutate, mutateIfRoom, durable: () => Promise.resolve(), ready: () => undefined };
}

t.test('P11: the change for which all replies are kept is not refused because they are so many', async (t) => {
  const ledger = new ReplyLedger(memoryState(), sessionId(1));
  let done = 0;
  const change = (sequence: number, ackedBelow: number): void => {
    ledger.runOnce({ sequence, ackedBelow }, MASTER_METHODS.unlink, () => {
      done++;
      return {};
    });
  };
  // The first one waits for its turn.
  for (let i = 0; i < MAX_STORED_REPLIES; i++) change(2 + i, 1);
  const next = 2 + MAX_STORED_REPLIES;
  t.throws(() => change(next, 1), { code: 'BUSY' });
  t.throws(() => change(next + 1, 1), { code: 'BUSY' });
  change(1, 1);
  change(1, 1);
  t.equal(done, MAX_STORED_REPLIES + 1, 'once');
  change(next, next);
  t.equal(done, MAX_STORED_REPLIES + 2);
});
