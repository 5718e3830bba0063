/** The life of a server process: it claims its directory, serves until it is told to stop, and says so to its parent. */
import { setTimeout as sleep } from 'node:timers/promises';
import { asCairnError } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import { claimDirectory, leaveDirectory, tellReady } from './process-control.js';

export interface Service {
  /** Resolves with host:port when it serves. */
  start(): Promise<string>;
  stop(): Promise<void>;
  /** Resolves when it cannot go on, and only a new start may help. */
  readonly failed?: Promise<Error>;
}

/** Time for a clean end. It is less than `cairn down` and systemd wait for before they kill. */
const STOP_MS = 15_000;

/** Calls `listener` with the name of each SIGINT, SIGTERM and SIGHUP. */
export function onStopSignal(listener: (signal: string) => void): void {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => listener(name));
}

/**
 * The last line of defence, against faults that nothing else caught. An error of the outside world that nobody handled (a
 * disk's, a peer's) is logged with its stack, and the process goes on: the request that met it has failed like any other,
 * and one peer's bad disk must not end a healthy server. Anything else is a broken invariant: what is in memory is not
 * to be trusted, and the process ends. Its next start reads back all that was acknowledged.
 */
export function watchForFaults(logger: Logger): void {
  process.on('unhandledRejection', (reason) => {
    if (asCairnError(reason).code === 'INTERNAL') endByFault(logger, reason);
    logger.error({ err: reason }, 'an error that nobody handled, a fault in CairnFS; going on');
  });
  process.on('uncaughtException', (error) => endByFault(logger, error));
}

function endByFault(logger: Logger, fault: unknown): never {
  logger.error({ err: fault }, 'ends by a fault in CairnFS');
  process.exit(1);
}

/** Ends the process. A usual exit waits for every call to a disk, and one that hangs may never come back. */
function endAtOnce(): void {
  process.kill(process.pid, 'SIGKILL');
}

/** Resolves when no call to a disk is out; ends the process when one stays out. */
async function untilDisksAnswer(logger: Logger): Promise<void> {
  const isOut = (): boolean => process.getActiveResourcesInfo().some((kind) => kind.startsWith('FSReq'));
  for (let look = 0; look < 20; look++) {
    if (!isOut()) return;
    await sleep(50);
  }
  logger.warn({}, 'ends without the disks that do not answer');
  endAtOnce();
}

/**
 * Runs until a signal. The clean end takes `stopMs` at most, and a second signal does not wait for it: what was acknowledged is
 * safe without.
 */
export async function runService(
  directory: string,
  logger: Logger,
  make: () => Promise<Service>,
  stopMs = STOP_MS,
): Promise<number> {
  watchForFaults(logger);
  await claimDirectory(directory);
  const stopped = new Promise<string>((resolve) => {
    let signals = 0;
    onStopSignal((signal) => {
      if (++signals > 1) endAtOnce();
      resolve(signal);
    });
  });
  let service: Service;
  try {
    service = await make();
    const address = await service.start();
    logger.info({ address, directory }, 'serving');
    tellReady(address);
  } catch (error) {
    logger.error({ code: asCairnError(error).code, directory }, `cannot start: ${asCairnError(error).message}`);
    await leaveDirectory(directory);
    throw error;
  }
  const end = await Promise.race([stopped, service.failed ?? stopped]);
  if (end instanceof Error) {
    logger.error({ directory }, `ends: ${end.message}`);
    await leaveDirectory(directory);
    // Not the clean way: that would go on with what has failed.
    process.exit(1);
  }
  logger.info({ signal: end }, 'stopping');
  const timer = setTimeout(() => {
    logger.error({ directory }, 'the clean end takes too long: ends as if it were killed');
    endAtOnce();
  }, stopMs);
  await service.stop();
  await leaveDirectory(directory);
  clearTimeout(timer);
  logger.info({}, 'stopped');
  await untilDisksAnswer(logger);
  return 0;
}
