/**
 * What /proc says of the thread that calls. Read anew each time: groups may change between two calls, and to find out
 * that they did not costs what reading them does (12 us, of the 500 us that a create takes).
 */
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { asCairnError } from '../../core/errors.js';
import { KIB, MAX_PATH_BYTES } from '../../core/limits.js';

/** Enough but for thousands of groups. */
const buffer = Buffer.alloc(16 * KIB);

/** The text of /proc/PID/status; '' when the caller was killed meanwhile, and nobody waits for the answer. */
export const readStatus = (pid: number): string => read(`/proc/${pid}/status`);

/** The text of /proc/PID/stat, or ''. */
export const readStat = (pid: number): string => read(`/proc/${pid}/stat`);

/** The text of /proc/PID/syscall; '' also when this process may not know. */
export const readSystemCall = (pid: number): string => read(`/proc/${pid}/syscall`);

/** The text at an address of a thread, up to its NUL; '' when it cannot be read. */
export function readTextAt(pid: number, address: bigint): string {
  try {
    const fd = openSync(`/proc/${pid}/mem`, 'r');
    try {
      // A path may end with the last page that is there.
      const length = readSync(fd, buffer, 0, Math.min(MAX_PATH_BYTES, buffer.length), address);
      const end = buffer.indexOf(0);
      return buffer.toString('latin1', 0, end < 0 || end > length ? length : end);
    } finally {
      closeSync(fd);
    }
  } catch {
    return '';
  }
}

function read(path: string): string {
  try {
    // Faster than readFileSync, which asks for the size, and reads again to find the end.
    const fd = openSync(path, 'r');
    try {
      const length = readSync(fd, buffer, 0, buffer.length, 0);
      if (length < buffer.length) return buffer.toString('latin1', 0, length);
    } finally {
      closeSync(fd);
    }
    return readFileSync(path, 'latin1');
  } catch (error) {
    // ESRCH, which is no error of ours, when it ends while it is read.
    const { code } = asCairnError(error);
    if (code === 'ENOENT' || code === 'INTERNAL' || code === 'EPERM' || code === 'EACCES') return '';
    throw error;
  }
}

const SIGKILL_BIT = 1n << 8n;

/** From the text of /proc/PID/status: the kernel gives SIGKILL to each thread of a process that a signal ends. */
export function isBeingKilled(status: string): boolean {
  const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return (BigInt(`0x${pending}`) & SIGKILL_BIT) !== 0n;
}

/** Of the task's flags in linux/sched.h: a signal ended it. */
const PF_SIGNALED = 0x400n;

/** It is a thread of the kernel's own. */
const PF_KTHREAD = 0x200000n;

/** From the text of /proc/PID/stat: it is on its way out, and was not asked. */
export const wasKilled = (stat: string): boolean => (taskFlags(stat) & PF_SIGNALED) !== 0n;

/** From the text of /proc/PID/stat. */
export const isKernelThread = (stat: string): boolean => (taskFlags(stat) & PF_KTHREAD) !== 0n;

function taskFlags(stat: string): bigint {
  // The name before may have any characters in it, brackets too.
  const flags = stat.slice(stat.lastIndexOf(')') + 1).split(' ')[7] ?? '';
  return /^\d+$/.test(flags) ? BigInt(flags) : 0n;
}
