/** What the kernel is told when a request fails, and what the operator is told. */
import { asCairnError, CLUSTER_ERRORS, hasCode, toErrno } from '../core/errors.js';
import type { Logger } from '../core/logging/logger.js';

/**
 * The positive errno for `error`. Errors that a program provokes (ENOENT …) are not logged; those that are about the
 * cluster are, and a fault of our own is logged with its stack.
 */
export function errnoOf(error: unknown, operation: string, logger: Logger): number {
  const errno = toErrno(error);
  const fault = asCairnError(error);
  if (fault.code === 'INTERNAL') {
    logger.error({ operation, stack: fault.cause instanceof Error ? fault.cause.stack : fault.stack }, fault.message);
  } else if (fault.code in CLUSTER_ERRORS || hasCode(fault, 'EIO', 'ENOSPC')) {
    logger.warn({ operation, code: fault.code }, fault.message);
  }
  return errno;
}
