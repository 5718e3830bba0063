/**
 * What a master's state should be after each record of its log, kept beside it: every mutation is noted as it is decided. So
 * memory, log and store are compared with something that none of them has made.
 */
import assert from 'node:assert/strict';
import { isDeepStrictEqual } from 'node:util';
import { LogState } from '../../../src/master/state/log-state.js';
import type { LogStateOptions } from '../../../src/master/state/log-state.js';
import type { Mutation, StateReader } from '../../../src/master/state/state.js';
import { auditState } from './audit.js';

interface Change {
  readonly sequence: number;
  readonly values: ReadonlyMap<string, string | undefined>;
}

/** Of an epoch: they are written before anybody can look. */
const OF_EPOCHS = new Set(
  ['epoch', 'boot', 'loss-epoch', 'format', 'sequence', 'next-inode'].map((name) => `M${name}`),
);
const MAX_START_RECORDS = 3;
const ALL = { start: 'A', end: '[' };

export class StateHistory {
  private readonly changes: Change[] = [];
  state: LogState | undefined;
  /** When the process died: records that may have been answered, and those that were said to be durable. */
  private answered = 0;
  private flushed = 0;
  opens = 0;
  /** Starts that ended before their state was open. */
  cutShort = 0;

  /** Every state that is opened is watched until the returned function is called. `bounds`: of its log and its commits. */
  install(bounds: Partial<LogStateOptions>): () => void {
    const open = LogState.open.bind(LogState);
    LogState.open = async (options) => {
      const state = await open({ ...options, ...bounds });
      this.opens++;
      this.watch(state);
      return state;
    };
    return () => {
      LogState.open = open;
    };
  }

  /** The process dies now: of what it still does nothing comes. */
  note(): void {
    this.answered = this.state?.lastSequence ?? 0;
    this.flushed = this.state?.flushedSequence ?? 0;
  }

  /** What the next start finds must hold all that was answered, or all that was flushed. */
  demands: 'answered' | 'flushed' = 'answered';

  private watch(state: LogState): void {
    const found = state.startSequence;
    const atLeast = this.demands === 'answered' ? this.answered : this.flushed;
    assert.ok(found >= atLeast, `${this.demands} ${atLeast}, and the log ends with ${found}`);
    const dump = this.dump(state);
    while ((this.changes.at(-1)?.sequence ?? 0) > found) this.changes.pop();
    // A start that was cut short has written records of its epoch in the place of what was lost before.
    const isOfStart = (): boolean =>
      (this.changes.at(-1)?.sequence ?? 0) > Math.max(atLeast, found - MAX_START_RECORDS);
    while (this.cutShort > 0 && isOfStart() && !isDeepStrictEqual(dump, this.expected())) this.changes.pop();
    assert.deepEqual(dump, this.expected(), `after replay up to ${found}`);
    this.cutShort = 0;
    assert.deepEqual(auditState(state), []);
    this.state = state;
    const mutate = state.mutate.bind(state);
    state.mutate = <T>(decide: (m: Mutation) => T): T => {
      const values = new Map<string, string | undefined>();
      const before = state.lastSequence;
      const result = mutate((m) => {
        values.clear();
        return decide(noting(m, values));
      });
      if (this.state === state && state.lastSequence > before)
        this.changes.push({ sequence: state.lastSequence, values });
      return result;
    };
  }

  /** The state in memory is what was decided, and its tables agree. */
  check(): void {
    assert.ok(this.state);
    assert.deepEqual(this.dump(this.state), this.expected(), 'in memory');
    assert.deepEqual(auditState(this.state), []);
  }

  private expected(): Record<string, string> {
    const values = new Map<string, string>();
    for (const change of this.changes) {
      for (const [key, value] of change.values) {
        if (value === undefined) values.delete(key);
        else values.set(key, value);
      }
    }
    return Object.fromEntries([...values].filter(([key]) => !OF_EPOCHS.has(key)).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  private dump(state: StateReader): Record<string, string> {
    const found: Record<string, string> = {};
    for (const [key, value] of state.range(ALL)) {
      if (OF_EPOCHS.has(key)) continue;
      found[key] = Buffer.from(value).toString('hex');
      const alone = state.get(key);
      assert.equal(alone && Buffer.from(alone).toString('hex'), found[key], 'a key reads alone as in a range');
    }
    return found;
  }
}

function noting(m: Mutation, values: Map<string, string | undefined>): Mutation {
  return {
    changes: m.changes,
    get: (key) => m.get(key),
    range: (range) => m.range(range),
    put: (key, value) => {
      values.set(key, Buffer.from(value).toString('hex'));
      m.put(key, value);
    },
    delete: (key) => {
      values.set(key, undefined);
      m.delete(key);
    },
  };
}
