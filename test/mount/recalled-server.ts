/**
 * A mount whose files another mount changes, as the process that started it says: recalled-server.js MOUNTPOINT SEED OPTIONS. Messages
 * are `Order`s; each is answered with its number and what is there then.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { SystemClock } from '../../src/core/clock.js';
import { asCairnError } from '../../src/core/errors.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { createLogger } from '../../src/core/logging/logger.js';
import { SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import { KernelDriver } from '../../src/fuse/kernel/driver.js';
import { BelievedFileSystem } from '../support/models/believed-filesystem.js';
import { OtherMount } from '../support/models/other-mount.js';
import type { Change, There } from '../support/models/other-mount.js';

export type Order = { readonly id: number } & (
  | Change
  | { readonly what: 'look'; readonly path: string; readonly inode?: number }
  | { readonly what: 'tune'; readonly tuning: Tuning }
  | { readonly what: 'counts' | 'unmount' }
);

export interface Tuning {
  /** Longest usual answer, and how many of a hundred take `longMs`. */
  readonly usualMs: number;
  readonly longPercent: number;
  readonly longMs: number;
  /** Operations that always take so long. */
  readonly held?: Readonly<Record<string, number>>;
  readonly changeMs: number;
}

export interface Outcome {
  readonly id: number;
  readonly error?: string;
  readonly there?: There | undefined;
  readonly counts?: Readonly<Record<string, number>>;
}

const [mountpoint, seed, ...flags] = process.argv.slice(2);
if (mountpoint === undefined) throw new Error('where?');
const random = new SeededRandom(Number(seed));
const model = new BelievedFileSystem();
const other = new OtherMount(model);
let tuning: Tuning = { usualMs: 0, longPercent: 0, longMs: 0, changeMs: 0 };
model.delay = (operation) => {
  const held = tuning.held?.[operation];
  if (held !== undefined) return pause(held);
  if (random.below(100) < tuning.longPercent) return pause(random.below(tuning.longMs));
  const ms = random.below(tuning.usualMs + 1);
  return ms === 0 ? undefined : pause(ms);
};
model.changeDelay = () => (tuning.changeMs === 0 ? undefined : pause(random.below(tuning.changeMs)));

const driver = new KernelDriver({
  source: 'recalled',
  mountpoint,
  fileSystem: model,
  root: ROOT_INODE,
  credentials: root,
  allowOther: true,
  kernelChecks: !flags.includes('unchecked'),
  flags: flags.includes('ro') ? ['ro'] : [],
  attributeTimeoutMs: undefined,
  entryTimeoutMs: 1_000,
  clock: new SystemClock(),
  logger: createLogger({ role: 'mount', level: 'warn', file: undefined }),
});
const mounted = await driver.mount();

async function obey(order: Order): Promise<Outcome> {
  const { id, what } = order;
  switch (what) {
    case 'tune':
      tuning = order.tuning;
      return { id };
    case 'counts':
      return { id, counts: Object.fromEntries(model.counts) };
    case 'unmount':
      await mounted.unmount('lazy');
      return { id };
    case 'look':
      return { id, there: other.there(order.path, order.inode) };
    default:
      await other.change(order);
      return { id };
  }
}

process.on('message', (order: Order) => {
  void obey(order)
    .catch((error: unknown) => {
      const { code, message } = asCairnError(error);
      return { id: order.id, error: code === 'INTERNAL' ? message : code };
    })
    .then((outcome: Outcome) => process.send?.(outcome));
});
process.send?.({ id: 0 } satisfies Outcome);
void mounted.closed.then(() => process.exit(0));
