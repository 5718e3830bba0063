/** The master's database on a simulated machine: a commit takes time, is all or nothing, and is durable. */
import type { Key, KeyRange, Store, StoreChange } from '../../../src/master/store/store.js';
import type { Random } from '../../../src/core/random.js';
import type { SimulatedClock } from './simulated-clock.js';
import type { Incarnation } from './simulated-network.js';
import type { Trace } from '../world/trace.js';

const EVERYTHING: KeyRange = { start: '', end: '\uffff' };

export class SimulatedStore {
  private readonly pending = new Set<{ readonly owner: Incarnation; readonly changes: readonly StoreChange[] }>();

  constructor(
    private readonly inner: Store,
    private readonly clock: SimulatedClock,
    private readonly random: Random,
    private readonly trace: Trace,
  ) {}

  forProcess(owner: Incarnation): Store {
    return {
      get: (key: Key) => this.inner.get(key),
      range: (range: KeyRange) => this.inner.range(range),
      commit: (changes) => this.commit(owner, [...changes]),
      close: async () => undefined,
    };
  }

  get(key: Key): Uint8Array | undefined {
    return this.inner.get(key);
  }

  range(range: KeyRange): Iterable<readonly [Key, Uint8Array]> {
    return this.inner.range(range);
  }

  /** All that is in it now, for `putBack`. */
  snapshot(): readonly StoreChange[] {
    return [...this.inner.range(EVERYTHING)].map(([key, value]) => ({ key, value: Uint8Array.from(value) }));
  }

  /** It is as it was, as after a backup was restored. No process may use it meanwhile. */
  async putBack(snapshot: readonly StoreChange[]): Promise<void> {
    this.trace.add(`fault put-back of the store, ${snapshot.length} keys`);
    const now = [...this.inner.range(EVERYTHING)].map(([key]) => ({ key, value: null }));
    await this.inner.commit([...now, ...snapshot]);
  }

  /** A commit under way when its process dies has happened, or has not. */
  async processKilled(owner: Incarnation): Promise<void> {
    for (const each of this.pending) {
      if (each.owner !== owner) continue;
      this.pending.delete(each);
      if (this.random.below(2) === 0) await this.inner.commit(each.changes);
    }
  }

  private commit(owner: Incarnation, changes: readonly StoreChange[]): Promise<void> {
    const call = { owner, changes };
    this.pending.add(call);
    return new Promise((resolve, reject) => {
      const complete = (): void => {
        if (!this.pending.delete(call)) return;
        this.trace.add(`store commit ${changes.length}`);
        this.inner.commit(changes).then(resolve, reject);
      };
      this.clock.schedule(300 + this.random.below(600), () => owner.time.whenAwake(complete));
    });
  }
}
