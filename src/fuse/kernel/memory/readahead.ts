/**
 * How far the kernel reads ahead in a file that is read in order. INIT can only lower it from the kernel's 128 KiB, at
 * which requests of 1 MiB never come; the administrator's knob can raise it.
 */
import { writeFile } from 'node:fs/promises';
import { asCairnError } from '../../../core/errors.js';
import { KERNEL_READAHEAD_BYTES, KIB } from '../../../core/limits.js';
import type { Logger } from '../../../core/logging/logger.js';
import { mountedOn } from '../../mountpoint.js';

/** Where it cannot be raised (no rights in /sys) the mount works, and reads slower: that is logged. */
export async function raiseReadahead(mountpoint: string, logger: Logger): Promise<void> {
  try {
    const entry = await mountedOn(mountpoint);
    if (entry === undefined) return;
    await writeFile(`/sys/class/bdi/${entry.device}/read_ahead_kb`, String(KERNEL_READAHEAD_BYTES / KIB));
  } catch (error) {
    const { message } = asCairnError(error);
    logger.info({ mountpoint, reason: message }, 'the kernel keeps its own readahead, 128 KiB: reading is slower');
  }
}
