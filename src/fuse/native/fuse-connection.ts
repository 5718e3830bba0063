/** This process' connections to the kernel, seen from outside libfuse: it closes /dev/fuse when the kernel unmounted. */
import { readdir, readlink } from 'node:fs/promises';
import { sleep } from '../../core/clock.js';
import type { Clock } from '../../core/clock.js';

const POLL_MS = 250;

/** Descriptors of this process that are /dev/fuse. */
export async function fuseDescriptors(): Promise<string[]> {
  const found: string[] = [];
  for (const descriptor of await readdir('/proc/self/fd')) {
    if (await isFuseDescriptor(descriptor)) found.push(descriptor);
  }
  return found;
}

async function isFuseDescriptor(descriptor: string): Promise<boolean> {
  try {
    return (await readlink(`/proc/self/fd/${descriptor}`)) === '/dev/fuse';
  } catch {
    return false; // closed since it was listed
  }
}

/** Resolves when `descriptor` is not a connection to the kernel any more. */
export async function connectionClosed(descriptor: string | undefined, clock: Clock): Promise<void> {
  if (descriptor === undefined) return;
  while (await isFuseDescriptor(descriptor)) await sleep(clock, POLL_MS);
}
