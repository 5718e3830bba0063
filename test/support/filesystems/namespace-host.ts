/** A namespace over the whole state engine, small bounds so that its background work happens within short tests. */
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { Timespec } from '../../../src/core/clock.js';
import { SeededRandom } from '../../../src/core/random.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { LogState } from '../../../src/master/state/log-state.js';
import { MemoryStore } from '../../../src/master/store/memory-store.js';
import { ensureRoot } from '../../../src/master/namespace/namespace.js';
import { CrashDisk } from '../fakes/crash-disk.js';
import { ManualClock } from '../fakes/manual-clock.js';
import { MemoryNotes } from '../fakes/memory-notes.js';
import { NamespaceFileSystem, SharedFiles } from './namespace-filesystem.js';

export async function openNamespace(options: {
  readonly now: () => Timespec;
  readonly onFailure: (error: Error) => void;
}): Promise<{ fs: NamespaceFileSystem; other: NamespaceFileSystem; state: LogState; store: MemoryStore }> {
  const store = new MemoryStore();
  const state = await LogState.open({
    store,
    disk: new CrashDisk(new SeededRandom(1)),
    bootNotes: new MemoryNotes(),
    directory: 'log',
    clock: new ManualClock(),
    logger: silentLogger,
    onFailure: options.onFailure,
    segmentBytes: 4096,
    commitChanges: 40,
    transactionChanges: 10,
  });
  state.mutate((m) => ensureRoot(m, { now: options.now() }, { ...ROOT_CREDENTIALS, mode: 0o755 }));
  const files = new SharedFiles();
  return {
    fs: new NamespaceFileSystem(state, files, options.now),
    other: new NamespaceFileSystem(state, files, options.now),
    state,
    store,
  };
}

/** Each look at the time is a microsecond later. */
export function tickingTime(): () => Timespec {
  let ticks = 0;
  return () => {
    ticks++;
    return { seconds: 1_700_000_000 + Math.floor(ticks / 1e6), nanoseconds: (ticks % 1e6) * 1000 };
  };
}
