/** What a case of the mount suite gets: an empty directory under the mount, and what the mount's driver can do. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';

/**
 * What a driver may lack (docs/fuse.md): a suite run names those to leave out.
 * - identity: operations are made as the calling user, so that permissions of others than the mounter hold
 * - mtime: utimens can set mtime apart from atime
 * - nanoseconds: times have nanoseconds
 * - binary-names: names need not be UTF-8
 * - devices: mknod of devices
 * - special-files: mkfifo
 */
export const CAPABILITIES = ['identity', 'mtime', 'nanoseconds', 'binary-names', 'devices', 'special-files'] as const;
export type Capability = (typeof CAPABILITIES)[number];

export interface MountCase {
  readonly name: string;
  readonly needs?: readonly Capability[];
  /** Synchronous on purpose: this process is never the one that serves the mount. */
  run(context: MountContext): void | Promise<void>;
}

export class MountContext {
  constructor(readonly dir: string) {}

  path(...parts: string[]): string {
    return path.join(this.dir, ...parts);
  }

  write(name: string, content: string | Uint8Array): string {
    const at = this.path(name);
    fs.writeFileSync(at, content);
    return at;
  }

  names(name = '.'): string[] {
    return fs.readdirSync(this.path(name)).sort();
  }

  /** Lets timestamps of whole milliseconds differ, also when the kernel's clock ticks every 4 ms. */
  tick(): void {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 15);
  }
}

export function fails(code: string | readonly string[], action: () => unknown): void {
  const codes = typeof code === 'string' ? [code] : code;
  try {
    action();
  } catch (error) {
    const actual = (error as NodeJS.ErrnoException).code ?? String(error);
    assert.ok(codes.includes(actual), `expected ${codes.join(' or ')}, got ${actual}`);
    return;
  }
  assert.fail(`expected ${codes.join(' or ')}, got success`);
}

/** Runs `action` as another user, with no other groups; the process must be root. */
export function as(uid: number, action: () => void): void {
  const groups = process.getgroups?.() ?? [];
  process.setgroups?.([]);
  process.setegid?.(uid);
  process.seteuid?.(uid);
  try {
    action();
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(groups);
  }
}

export function openFile<T>(at: string, flags: string | number, use: (fd: number) => T): T {
  const fd = fs.openSync(at, flags);
  try {
    return use(fd);
  } finally {
    fs.closeSync(fd);
  }
}

export function readAt(fd: number, offset: number, length: number): Buffer {
  const into = Buffer.alloc(length);
  return into.subarray(0, fs.readSync(fd, into, 0, length, offset));
}
