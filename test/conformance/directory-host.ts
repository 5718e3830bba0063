/** The suite's host for directories: of two mounts, or twice the same local one. */
import { setTimeout as pause } from 'node:timers/promises';
import { DirectoryFileSystem } from '../support/filesystems/directory-filesystem.js';
import type { DirectoryOptions } from '../support/filesystems/directory-filesystem.js';
import type { ConformanceHost } from './filesystem-suite.js';

/** The kernel's clock for timestamps ticks every 4 ms, or 10. */
const TICK_MS = 15;
/** On a busy machine, with a margin: two processes and the master are on the way. */
const SETTLE_MS = 150;
/** As long as a mount believes names by default, and some more. */
const NAMES_MS = 1100;

export async function directoryHost(
  one: string,
  two: string,
  options: DirectoryOptions = {},
): Promise<ConformanceHost> {
  const [fs, other] = await DirectoryFileSystem.pair(one, two, options);
  return {
    fs,
    other,
    tick: () => pause(TICK_MS),
    settle: () => pause(SETTLE_MS),
    forgetNames: () => pause(one === two ? 0 : NAMES_MS),
    run: async (body) => {
      try {
        await body();
      } finally {
        await fs.forget();
        await other.forget();
      }
    },
    stop: async () => {
      await fs.close();
      await other.close();
    },
  };
}
