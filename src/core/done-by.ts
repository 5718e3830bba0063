/** Work that is waited for no longer than until some time. */
import type { Clock } from './clock.js';
import { CairnError } from './errors.js';
import { deferred } from './sync.js';

/** As `work`, but TIMEOUT when it is not done by `deadlineMs` (monotonic); it goes on. `what` is waited for. */
export async function doneBy<T>(clock: Clock, deadlineMs: number, what: string, work: Promise<T>): Promise<T> {
  const late = deferred<never>();
  const timer = clock.setTimer(Math.max(0, deadlineMs - clock.monotonicMs()), () => {
    late.reject(new CairnError('TIMEOUT', `${what} took too long`));
  });
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    timer.cancel();
  }
}
