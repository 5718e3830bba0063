/** The life of a server process: it claims its directory, serves until it is told to stop, and says so to its parent. */
import { asCairnError } from '../core/errors.js';
import type { Logger } from '../core/logger.js';
import { claimDirectory, leaveDirectory, tellReady } from './process-control.js';

export interface Service {
  /** Resolves with host:port when it serves. */
  start(): Promise<string>;
  stop(): Promise<void>;
  /** Resolves when it cannot go on, and only a new start may help. */
  readonly failed?: Promise<Error>;
}

/** Calls `listener` with the name of each SIGINT, SIGTERM and SIGHUP. */
export function onStopSignal(listener: (signal: string) => void): void {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => listener(name));
}

/** Runs until a signal. A second signal does not wait for a clean end: what was acknowledged is safe without. */
export async function runService(directory: string, logger: Logger, make: () => Promise<Service>): Promise<number> {
  await claimDirectory(directory);
  const stopped = new Promise<string>((resolve) => {
    let signals = 0;
    onStopSignal((signal) => {
      if (++signals > 1) process.exit(1);
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
  await service.stop();
  await leaveDirectory(directory);
  logger.info({}, 'stopped');
  return 0;
}
