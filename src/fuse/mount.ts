/** The life of a mount in its own process: serving, and leaving cleanly on a signal or when somebody else unmounts. */
import { asCairnError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import type { FileSystem } from '../client/filesystem.js';
import type { Driver, Mounted } from './driver.js';

export interface ServeOptions {
  readonly fileSystem: FileSystem;
  readonly logger: Logger;
  /** Called once the mount is usable. */
  onReady(): void;
  /** Calls `listener` for each signal that asks to leave. */
  onSignal(listener: (signal: string) => void): void;
}

/**
 * Mounts and serves until unmounted. The first signal asks the kernel to unmount, after which it flushes what programs
 * wrote and closes their files; while programs use the mount it stays, and says so. A second signal detaches it.
 * Returns when nothing more can arrive and all is flushed; throws when that flush failed.
 */
export async function serveMount(driver: Driver, mountpoint: string, options: ServeOptions): Promise<void> {
  const { fileSystem, logger } = options;
  const mounted = await driver.mount();
  logger.info({ mountpoint }, 'mounted');
  let signals = 0;
  options.onSignal((signal) => {
    signals++;
    void leave(mounted, signals > 1 ? 'lazy' : 'clean', { logger, mountpoint, signal });
  });
  options.onReady();
  await mounted.closed;
  logger.info({ mountpoint }, 'unmounted');
  await fileSystem.close();
}

/** Never rejects: a failure leaves the mount as it was, and is logged. */
async function leave(
  mounted: Mounted,
  mode: 'clean' | 'lazy',
  context: { readonly logger: Logger; readonly mountpoint: string; readonly signal: string },
): Promise<void> {
  const { logger, mountpoint, signal } = context;
  try {
    logger.info({ mountpoint, signal, mode, openFiles: mounted.openFiles() }, 'unmounting');
    await mounted.unmount(mode);
  } catch (error) {
    const { code, message } = asCairnError(error);
    const advice = code === 'EBUSY' ? 'close what uses the mount and signal again, which detaches it' : message;
    logger.warn({ mountpoint, code, openFiles: mounted.openFiles() }, `still mounted: ${advice}`);
  }
}
