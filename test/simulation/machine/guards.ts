/**
 * Catches code that reaches past the simulator: while a world runs, real time, real timers and real randomness throw.
 * What throws may be caught by the code under test, so each use is also kept, and fails the run.
 */
import crypto from 'node:crypto';
import { syncBuiltinESMExports } from 'node:module';

/** Waits until every microtask has run, without the guarded globals. */
const realSetImmediate = setImmediate;
export function microtasksDrained(): Promise<void> {
  return new Promise((resolve) => {
    realSetImmediate(resolve);
  });
}

type Container = Record<string, unknown>;

const FORBIDDEN: readonly { holder: object; name: string; key: string }[] = [
  { holder: globalThis, name: 'setTimeout', key: 'setTimeout' },
  { holder: globalThis, name: 'setInterval', key: 'setInterval' },
  { holder: globalThis, name: 'setImmediate', key: 'setImmediate' },
  { holder: Date, name: 'Date.now', key: 'now' },
  { holder: Math, name: 'Math.random', key: 'random' },
  { holder: performance, name: 'performance.now', key: 'now' },
  { holder: process, name: 'process.hrtime', key: 'hrtime' },
  { holder: crypto, name: 'crypto.randomBytes', key: 'randomBytes' },
  { holder: crypto, name: 'crypto.randomUUID', key: 'randomUUID' },
  { holder: crypto, name: 'crypto.randomInt', key: 'randomInt' },
  { holder: crypto, name: 'crypto.randomFillSync', key: 'randomFillSync' },
];

export class Guards {
  readonly violations: string[] = [];
  private restore: (() => void)[] = [];

  install(): void {
    for (const { holder, name, key } of FORBIDDEN) {
      const container = holder as Container;
      const own = Object.getOwnPropertyDescriptor(holder, key);
      Object.defineProperty(container, key, { value: this.refuse(name), configurable: true, writable: true });
      this.restore.push(() => {
        if (own === undefined) Reflect.deleteProperty(container, key);
        else Object.defineProperty(container, key, own);
      });
    }
    const RealDate = Date;
    const refuse = this.refuse('new Date()');
    globalThis.Date = new Proxy(RealDate, {
      construct: (target, args: unknown[]) =>
        (args.length === 0 ? refuse() : Reflect.construct(target, args)) as object,
    });
    this.restore.push(() => {
      globalThis.Date = RealDate;
    });
    syncBuiltinESMExports();
  }

  uninstall(): void {
    for (const undo of this.restore.reverse()) undo();
    this.restore = [];
    syncBuiltinESMExports();
  }

  private refuse(name: string): () => never {
    return () => {
      const error = new Error(`${name} was used while a simulated world ran: take it from the injected interface`);
      this.violations.push(error.stack ?? error.message);
      throw error;
    };
  }
}
