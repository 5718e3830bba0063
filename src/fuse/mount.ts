/** The life of a mount in its own process: serving, and leaving cleanly on a signal or when somebody else unmounts. */
import { asCairnError } from '../core/errors.js';
import type { Logger } from '../core/logging/logger.js';
import { unawaited } from '../core/sync.js';
import type { FileSystem } from '../filesystem/filesystem.js';
import type { Driver, Mounted, UnmountMode } from './driver.js';
import { mountedOn, requireVisible } from './mountpoint.js';

export interface ServeOptions {
  readonly fileSystem: FileSystem;
  readonly logger: Logger;
  /** Called once the mount is usable. */
  onReady(): void;
  /** Calls `listener` for each signal that asks to leave. */
  onSignal(listener: (signal: string) => void): void;
}

/** 'unmounted': the kernel has let go. 'detached': programs that had files open still wait for this process. */
export type MountEnd = 'unmounted' | 'detached';

/**
 * Mounts and serves until unmounted. The first signal asks the kernel to unmount, after which it flushes what programs
 * wrote and closes their files; while programs use the mount it stays, and says so. A second signal detaches it.
 * Returns when nothing more can arrive and all is flushed; throws when that flush failed.
 */
export async function serveMount(driver: Driver, mountpoint: string, options: ServeOptions): Promise<MountEnd> {
  const { fileSystem, logger } = options;
  const mounted = await driver.mount();
  const device = (await mountedOn(mountpoint))?.device;
  logger.info({ mountpoint, device }, 'mounted');
  const told = new Promise<MountEnd>((resolve) => {
    const endNow = (): void => resolve('detached');
    let signals = 0;
    options.onSignal((signal) => {
      signals++;
      const mode = signals > 1 ? 'lazy' : 'clean';
      unawaited(leave(mounted, mode, { logger, mountpoint, device, signal, endNow }), logger, 'unmounting');
    });
  });
  options.onReady();
  const end = await Promise.race([mounted.closed.then(() => 'unmounted' as const), told]);
  logger.info({ mountpoint, end }, 'unmounted');
  await fileSystem.close();
  return end;
}

/** Never rejects: a failure leaves the mount as it was, and is logged. */
async function leave(
  mounted: Mounted,
  mode: UnmountMode,
  context: {
    readonly logger: Logger;
    readonly mountpoint: string;
    readonly device: string | undefined;
    readonly signal: string;
    readonly endNow: () => void;
  },
): Promise<void> {
  const { logger, mountpoint, device, signal } = context;
  try {
    logger.info({ mountpoint, signal, mode, openFiles: mounted.openFiles() }, 'unmounting');
    await requireVisible(mountpoint, device);
    await mounted.unmount(mode);
  } catch (error) {
    const { code, message } = asCairnError(error);
    // Detached before, and only programs that still have it open kept it alive until now.
    if (code === 'EINVAL') return context.endNow();
    const advice = code === 'EBUSY' ? 'close what uses the mount and signal again, which detaches it' : message;
    logger.warn({ mountpoint, code, openFiles: mounted.openFiles() }, `still mounted: ${advice}`);
  }
}
