/**
 * A disk in memory that forgets: `kill` ends the process and keeps what it wrote, `powerLoss` keeps what was synced and,
 * by chance, any part of the rest. Files opened before a crash do nothing afterwards.
 */
import { dirname } from 'node:path';
import type { Disk, DiskFile, DiskSpace } from '../../../src/core/disk/disk.js';
import { CairnError, type ErrorCode } from '../../../src/core/errors.js';
import type { Random } from '../../../src/core/random.js';

interface Node {
  durable: Buffer;
  current: Buffer;
  /** Since the last sync, in order; a Uint8Array at its offset, or a truncate. */
  unsynced: { offset: number; bytes: Uint8Array | null }[];
}

function applyWrite(content: Buffer, offset: number, bytes: Uint8Array | null): Buffer {
  if (bytes === null)
    return Buffer.concat([content.subarray(0, offset), Buffer.alloc(Math.max(0, offset - content.length))]);
  const out = Buffer.alloc(Math.max(content.length, offset + bytes.length));
  content.copy(out);
  out.set(bytes, offset);
  return out;
}

export class CrashDisk implements Disk {
  private durableNames = new Map<string, Node>();
  private names = new Map<string, Node>();
  private boots = 1;
  /** Grows when the process dies. */
  lives = 1;
  private readonly faults: { label: string; after: number; code: ErrorCode; keepBytes: number }[] = [];
  private readonly locks = new Set<string>();
  /** Changes made so far. */
  changes = 0;
  private readonly heldUnlinks = new Map<string, Promise<void>>();
  private killAt: { change: number; keepBytes: number } | undefined;
  /** Bytes that fit on it, in files. */
  capacity = Infinity;

  constructor(private readonly random: Random) {}

  /** Lets the call with this label fail, after `after` that succeed; a write then, when `keepBytes` of it are written. */
  failOn(label: string, after = 0, code: ErrorCode = 'EIO', keepBytes = 0): void {
    this.faults.push({ label, after, code, keepBytes });
  }

  willFailOn(label: string): boolean {
    return this.faults.some((fault) => fault.label === label);
  }

  clearFaults(): void {
    this.faults.length = 0;
  }

  /** The process dies in the change numbered `change` (as counted by `changes`), of which `keepBytes` are written. */
  killAtChange(change: number, keepBytes = 0): void {
    this.killAt = { change, keepBytes };
  }

  /** Another program takes all that is left, but `leave` bytes; again: as much as is left then. */
  async fill(leave = 0): Promise<void> {
    const file = await this.open('filler', 'filler', 'create');
    const room = this.capacity - this.usedBytes() - leave;
    if (room > 0) await file.write('filler', Buffer.alloc(room), await file.size('filler'));
  }

  /** The file is not unlinked before the returned function is called. */
  holdUnlink(path: string): () => void {
    let goOn = (): void => undefined;
    this.heldUnlinks.set(path, new Promise((resolve) => (goOn = resolve)));
    return () => {
      this.heldUnlinks.delete(path);
      goOn();
    };
  }

  kill(): void {
    this.lives++;
    this.killAt = undefined;
    this.locks.clear();
  }

  /** Counts a change; how many bytes of it are made when the process dies in it. */
  private change(): number | undefined {
    if (this.changes++ !== this.killAt?.change) return undefined;
    const { keepBytes } = this.killAt;
    this.kill();
    return keepBytes;
  }

  powerLoss(): void {
    this.kill();
    this.boots++;
    const names = new Map<string, Node>();
    for (const path of new Set([...this.durableNames.keys(), ...this.names.keys()])) {
      const before = this.durableNames.get(path);
      const after = this.names.get(path);
      const node = before === after || this.random.below(2) === 0 ? after : before;
      if (node !== undefined) names.set(path, node);
    }
    for (const node of names.values()) {
      let content = node.durable;
      for (const { offset, bytes } of node.unsynced) {
        const luck = this.random.below(3);
        if (luck === 0) continue;
        const kept = bytes === null || luck === 1 ? bytes : bytes.subarray(0, this.random.below(bytes.length + 1));
        content = applyWrite(content, offset, kept);
      }
      node.durable = node.current = content;
      node.unsynced = [];
    }
    this.names = names;
    this.durableNames = new Map(names);
  }

  bootId(): string {
    return `boot-${this.boots}`;
  }

  /** The paths there are, sorted. */
  paths(): string[] {
    return [...this.names.keys()].sort();
  }

  /** What is below `path` is away until the returned function is called. For when no process runs. */
  unmount(path: string): () => void {
    const away = [...this.names].filter(([name]) => name.startsWith(`${path}/`));
    for (const [name] of away) {
      this.names.delete(name);
      this.durableNames.delete(name);
    }
    return () => {
      for (const [name, node] of away) {
        this.names.set(name, node);
        this.durableNames.set(name, node);
      }
    };
  }

  /** The content of a file, to look at and to damage. */
  content(path: string): Buffer {
    const node = this.names.get(path);
    if (node === undefined) throw new Error(`no file ${path}`);
    return node.current;
  }

  private step(label: string, life: number, keep?: (bytes: number) => void): void {
    if (life !== this.lives) throw new CairnError('EIO', `${label}: the process is dead`);
    const fault = this.faults.find((candidate) => candidate.label === label);
    if (fault === undefined) return;
    if (fault.after-- > 0) return;
    this.faults.splice(this.faults.indexOf(fault), 1);
    if (fault.keepBytes > 0) keep?.(fault.keepBytes);
    throw new CairnError(fault.code, `${label}: injected fault`);
  }

  async open(label: string, path: string, mode: 'existing' | 'create' | 'exclusive'): Promise<DiskFile> {
    const life = this.lives;
    await Promise.resolve();
    this.step(label, life);
    let node = this.names.get(path);
    if (node === undefined && mode === 'existing') throw new CairnError('ENOENT', path);
    if (node !== undefined && mode === 'exclusive') throw new CairnError('EEXIST', path);
    if (node === undefined) {
      node = { durable: Buffer.alloc(0), current: Buffer.alloc(0), unsynced: [] };
      this.names.set(path, node);
    }
    return this.handle(node, life);
  }

  usedBytes(): number {
    return [...new Set(this.names.values())].reduce((sum, node) => sum + node.current.length, 0);
  }

  private handle(node: Node, life: number): DiskFile {
    const write = (label: string, bytes: Uint8Array | null, offset: number): void => {
      this.step(label, life, (keepBytes) => {
        if (bytes !== null) write(label, bytes.subarray(0, keepBytes), offset);
      });
      const growth = offset + (bytes?.length ?? 0) - node.current.length;
      const room = this.capacity - this.usedBytes();
      if (bytes !== null && growth > 0 && growth > room) {
        // As write(2) does: what fits is written, and the next call fails.
        const fits = Math.max(0, bytes.length - (growth - Math.max(0, room)));
        if (fits > 0) write(label, bytes.subarray(0, fits), offset);
        throw new CairnError('ENOSPC', `${label}: no space left on the disk`);
      }
      const keep = this.change();
      const copy = bytes === null ? null : Uint8Array.from(keep === undefined ? bytes : bytes.subarray(0, keep));
      if (keep !== undefined && (copy === null || copy.length === 0)) throw new CairnError('EIO', `${label}: killed`);
      node.unsynced.push({ offset, bytes: copy });
      node.current = applyWrite(node.current, offset, copy);
      if (keep !== undefined) throw new CairnError('EIO', `${label}: killed`);
    };
    const readSync = (label: string, into: Uint8Array, offset: number): number => {
      this.step(label, life);
      const part = node.current.subarray(offset, offset + into.length);
      into.set(part);
      return part.length;
    };
    return {
      readSync,
      read: async (label, into, offset) => (await Promise.resolve(), readSync(label, into, offset)),
      write: async (label, bytes, offset) => (await Promise.resolve(), write(label, bytes, offset)),
      writeSync: write,
      truncate: async (label, length) => (await Promise.resolve(), write(label, null, length)),
      truncateSync: (label, length) => write(label, null, length),
      size: async (label) => (await Promise.resolve(), this.step(label, life), node.current.length),
      datasync: async (label) => {
        try {
          this.step(label, life);
        } catch (error) {
          // As Linux does: what could not be written counts as clean from now on, and the next sync succeeds.
          if (life === this.lives) node.unsynced = [];
          throw error;
        }
        const [content, count] = [node.current, node.unsynced.length];
        for (let i = this.random.below(4); i >= 0; i--) await Promise.resolve();
        this.step(label, life);
        node.durable = content;
        node.unsynced = node.unsynced.slice(count);
      },
      close: () => Promise.resolve(),
    };
  }

  async mkdir(label: string): Promise<void> {
    await Promise.resolve();
    this.step(label, this.lives);
  }

  async *list(label: string, path: string): AsyncIterable<string> {
    await Promise.resolve();
    this.step(label, this.lives);
    for (const name of [...this.names.keys()]) if (name.startsWith(`${path}/`)) yield name.slice(path.length + 1);
  }

  async rename(label: string, from: string, to: string): Promise<void> {
    await Promise.resolve();
    this.step(label, this.lives);
    if (this.change() !== undefined) throw new CairnError('EIO', `${label}: killed`);
    const node = this.names.get(from);
    if (node === undefined) throw new CairnError('ENOENT', from);
    this.names.delete(from);
    this.names.set(to, node);
  }

  async unlink(label: string, path: string): Promise<void> {
    const life = this.lives;
    await this.heldUnlinks.get(path);
    this.step(label, life);
    if (this.change() !== undefined) throw new CairnError('EIO', `${label}: killed`);
    if (!this.names.delete(path)) throw new CairnError('ENOENT', path);
  }

  async syncDirectory(label: string, path: string): Promise<void> {
    const life = this.lives;
    await Promise.resolve();
    this.step(label, life);
    for (const name of new Set([...this.names.keys(), ...this.durableNames.keys()])) {
      if (dirname(name) !== path) continue;
      const node = this.names.get(name);
      if (node === undefined) this.durableNames.delete(name);
      else this.durableNames.set(name, node);
    }
  }

  async lock(label: string, path: string): Promise<() => Promise<void>> {
    await Promise.resolve();
    this.step(label, this.lives);
    if (this.locks.has(path)) throw new CairnError('EBUSY', path);
    this.locks.add(path);
    return () => {
      this.locks.delete(path);
      return Promise.resolve();
    };
  }

  space(): Promise<DiskSpace> {
    const totalBytes = Math.min(this.capacity, 2 ** 40);
    return Promise.resolve({ totalBytes, freeBytes: Math.max(0, totalBytes - this.usedBytes()) });
  }

  /** The disk as one process sees it, which ends with `kill` and `powerLoss`. */
  forProcess(): Disk {
    const life = this.lives;
    const alive = (label: string): CrashDisk => {
      if (life !== this.lives) throw new CairnError('EIO', `${label}: the process is dead`);
      return this;
    };
    return {
      open: async (label, path, mode) => alive(label).open(label, path, mode),
      mkdir: async (label) => alive(label).mkdir(label),
      list: (label, path) => alive(label).list(label, path),
      rename: async (label, from, to) => alive(label).rename(label, from, to),
      unlink: async (label, path) => alive(label).unlink(label, path),
      syncDirectory: async (label, path) => alive(label).syncDirectory(label, path),
      space: async (label) => alive(label).space(),
      lock: async (label, path) => alive(label).lock(label, path),
      bootId: () => this.bootId(),
    };
  }
}
