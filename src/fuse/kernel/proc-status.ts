/** What /proc says of the thread that calls. */
import { readFileSync } from 'node:fs';
import { asCairnError } from '../../core/errors.js';

/** The text of /proc/PID/status; '' when the caller was killed meanwhile, and nobody waits for the answer. */
export function readStatus(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'latin1');
  } catch (error) {
    // ESRCH, which is no error of ours, when it ends while it is read.
    const { code } = asCairnError(error);
    if (code === 'ENOENT' || code === 'INTERNAL') return '';
    throw error;
  }
}

const SIGKILL_BIT = 1n << 8n;

/** From the text of /proc/PID/status: the kernel gives SIGKILL to each thread of a process that a signal ends. */
export function isBeingKilled(status: string): boolean {
  const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return (BigInt(`0x${pending}`) & SIGKILL_BIT) !== 0n;
}
