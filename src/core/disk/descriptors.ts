/**
 * File descriptors of this process. Linux gives each process a number of them; what strangers or many clients take must
 * leave enough for the process's own files, or nothing can be opened any more (EMFILE).
 */
import { close, openSync, readFileSync } from 'node:fs';
import { sleep, SystemClock } from '../clock.js';
import { asCairnError } from '../errors.js';
import {
  MAX_CHUNKSERVER_PEERS,
  MAX_CONNECTIONS,
  MAX_OPEN_CHUNK_FILES,
  MAX_UNPROVEN_CONNECTIONS,
  SPARE_DESCRIPTORS,
} from '../limits.js';

/** What the process opens besides chunk files and connections to it: libraries, the store, the log, connections it makes. */
const OTHER_DESCRIPTORS = MAX_CHUNKSERVER_PEERS + 64;
const ATTEMPTS = 100;
const PAUSE_MS = 20;
const RESTOCK_MS = 1_000;

export interface DescriptorShares {
  /** Connections of peers that proved the secret, and of others. */
  readonly connections: number;
  readonly unproven: number;
  /** Chunk files, each of which may take two. */
  readonly chunkFiles: number;
}

/** How a process with `limit` descriptors divides them. */
export function shareDescriptors(limit: number): DescriptorShares {
  const chunkFiles = Math.min(MAX_OPEN_CHUNK_FILES, Math.floor(limit / 8));
  const unproven = Math.min(MAX_UNPROVEN_CONNECTIONS, Math.floor(limit / 8));
  const left = limit - 2 * chunkFiles - unproven - OTHER_DESCRIPTORS;
  return { connections: Math.max(16, Math.min(MAX_CONNECTIONS, left)), unproven, chunkFiles };
}

/** Of this process. Node raises the soft limit to the hard one when it starts. */
export function descriptorLimit(): number {
  const [, soft] = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1')) ?? [];
  return soft === undefined ? Infinity : Number(soft);
}

const isShort = (error: unknown): boolean =>
  asCairnError(error).code === 'EMFILE' || (error instanceof Error && 'code' in error && error.code === 'ENFILE');

/**
 * Descriptors kept for opening files when there are none left. What opens a file does it through `use`, which gives one
 * of these up and tries again, and tells `onShort`, so that others let go of some.
 */
export class SpareDescriptors {
  private readonly spares: number[] = [];
  private restocking = false;
  private readonly clock = new SystemClock();

  constructor(private readonly onShort: () => void = () => undefined) {
    this.restock();
  }

  async use<T>(open: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await open();
      } catch (error) {
        if (!isShort(error) || attempt >= ATTEMPTS) throw error;
      }
      this.onShort();
      const spare = this.spares.pop();
      this.restockSoon();
      if (spare === undefined) await sleep(this.clock, PAUSE_MS);
      else close(spare, () => undefined);
    }
  }

  private restockSoon(): void {
    if (this.restocking) return;
    this.restocking = true;
    const timer = setTimeout(() => {
      this.restocking = false;
      this.restock();
    }, RESTOCK_MS);
    timer.unref();
  }

  private restock(): void {
    try {
      while (this.spares.length < SPARE_DESCRIPTORS) this.spares.push(openSync('/dev/null', 'r'));
    } catch {
      this.restockSoon(); // There are none now.
    }
  }
}
