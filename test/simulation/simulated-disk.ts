/**
 * The disk of one simulated machine. What a process wrote survives the process (the page cache); what was synced
 * survives the machine. Power loss keeps any part of the rest: each unsynced write wholly, not at all, or torn at a
 * sector, and of each directory a prefix of its unsynced changes.
 */
import { CairnError } from '../../src/core/errors.js';
import type { ErrorCode } from '../../src/core/errors.js';
import type { Disk, DiskFile, DiskLabel, DiskSpace } from '../../src/core/disk.js';
import { GIB, MIB } from '../../src/core/limits.js';
import type { Random } from '../../src/core/random.js';
import { SparseBytes } from '../support/sparse-bytes.js';
import type { SimulatedClock } from './simulated-clock.js';
import type { Incarnation } from './simulated-network.js';
import type { Trace } from './trace.js';

const SECTOR_BYTES = 512;
const TOTAL_BYTES = 100 * GIB;
/** Unsynced bytes of a file at which the kernel writes the oldest back by itself. */
const WRITEBACK_BYTES = 16 * MIB;

interface UnsyncedWrite {
  readonly kind: 'write';
  readonly offset: number;
  readonly bytes: Buffer;
}
interface UnsyncedTruncate {
  readonly kind: 'truncate';
  readonly length: number;
}

class FileNode {
  readonly kind = 'file';
  /** The page cache. */
  current = new SparseBytes();
  /** The platter. */
  durable = new SparseBytes();
  readonly unsynced: (UnsyncedWrite | UnsyncedTruncate)[] = [];
  private unsyncedBytes = 0;

  write(offset: number, bytes: Uint8Array): void {
    this.current.write(offset, bytes);
    this.unsynced.push({ kind: 'write', offset, bytes: Buffer.from(bytes) });
    this.unsyncedBytes += bytes.length;
    while (this.unsyncedBytes > WRITEBACK_BYTES) this.sync(1);
  }

  truncate(length: number): void {
    this.current.truncate(length);
    this.unsynced.push({ kind: 'truncate', length });
  }

  /** The oldest `count` changes reach the platter. */
  sync(count: number): void {
    for (const change of this.unsynced.splice(0, count)) {
      if (change.kind === 'truncate') this.durable.truncate(change.length);
      else {
        this.durable.write(change.offset, change.bytes);
        this.unsyncedBytes -= change.bytes.length;
      }
    }
  }

  losePower(random: Pick<Random, 'below'>): void {
    for (const change of this.unsynced.splice(0)) {
      const fate = random.below(3);
      if (fate === 0) continue;
      if (change.kind === 'truncate') this.durable.truncate(change.length);
      else if (fate === 1) this.durable.write(change.offset, change.bytes);
      else {
        const sectors = random.below(Math.ceil(change.bytes.length / SECTOR_BYTES) + 1);
        this.durable.write(change.offset, change.bytes.subarray(0, sectors * SECTOR_BYTES));
      }
    }
    this.unsyncedBytes = 0;
    this.current = this.durable.clone();
  }
}

class DirectoryNode {
  readonly kind = 'directory';
  current = new Map<string, Node>();
  durable = new Map<string, Node>();
  readonly unsynced: { name: string; node: Node | undefined }[] = [];

  set(name: string, node: Node | undefined): void {
    if (node === undefined) this.current.delete(name);
    else this.current.set(name, node);
    this.unsynced.push({ name, node });
  }

  sync(count: number): void {
    for (const { name, node } of this.unsynced.splice(0, count)) {
      if (node === undefined) this.durable.delete(name);
      else this.durable.set(name, node);
    }
  }

  losePower(random: Pick<Random, 'below'>): void {
    this.sync(random.below(this.unsynced.length + 1));
    this.unsynced.length = 0;
    this.current = new Map(this.durable);
    for (const node of this.current.values()) node.losePower(random);
  }
}

type Node = FileNode | DirectoryNode;

/** The worst luck: nothing that was not synced reaches the platter. */
const NOTHING: Pick<Random, 'below'> = { below: () => 0 };

/** What a test wants to happen to one call. */
export interface DiskFault {
  readonly failWith?: ErrorCode;
  readonly delayUs?: number;
}

export class SimulatedDisk {
  readonly root = new DirectoryNode();
  private boots = 1;
  /** Directories that a process has taken for itself. */
  readonly locks = new Map<string, Incarnation>();
  /** Calls under way whose effect may happen in part when their process dies. */
  readonly pending = new Set<{ readonly owner: Incarnation; readonly onKilled: () => void }>();
  /** Asked before every call; the label says what it is for. */
  onCall: ((label: DiskLabel, path: string) => DiskFault | undefined) | undefined;
  /** Bytes that other programs have on it. */
  otherBytes = 0;

  constructor(
    readonly host: string,
    readonly clock: SimulatedClock,
    readonly random: Random,
    readonly trace: Trace,
  ) {}

  forProcess(owner: Incarnation): Disk {
    return new ProcessDisk(this, owner);
  }

  get bootId(): string {
    return `${this.host}-boot-${this.boots}`;
  }

  /** Makes an empty directory that was there before anything started. */
  format(path: string): void {
    const { directory, name } = this.place(path);
    directory.set(name, new DirectoryNode());
    directory.sync(directory.unsynced.length);
  }

  losePower(keeps: 'some' | 'nothing' = 'some'): void {
    this.trace.add(`fault power-loss of the disk of ${this.host}`);
    this.boots++;
    this.root.losePower(keeps === 'some' ? this.random : NOTHING);
  }

  /** A process died in the middle of its calls: each write may have got some way. */
  processKilled(owner: Incarnation): void {
    for (const call of this.pending) {
      if (call.owner !== owner) continue;
      this.pending.delete(call);
      call.onKilled();
    }
  }

  /** Names of the files under `path`, however deep, for tests that look at what a server keeps. */
  files(path = ''): string[] {
    const found: string[] = [];
    const walk = (node: Node, at: string): void => {
      if (node.kind === 'file') found.push(at);
      else for (const [name, child] of node.current) walk(child, `${at}/${name}`);
    };
    walk(this.find(path), path);
    return found.sort();
  }

  /** The content of a file as a process would read it. */
  content(path: string): Buffer {
    const node = this.find(path);
    if (node.kind !== 'file') throw new CairnError('EISDIR', path);
    return node.current.read(0, node.current.size);
  }

  /** Changes bytes on the platter and in the page cache, as a failing disk does. */
  corrupt(path: string, offset: number, bytes: Uint8Array): void {
    this.trace.add(`fault corrupt ${this.host}${path} at ${offset}`);
    const node = this.find(path);
    if (node.kind !== 'file') throw new CairnError('EISDIR', path);
    node.current.write(offset, bytes);
    node.durable.write(offset, bytes);
  }

  find(path: string): Node {
    let at: Node = this.root;
    for (const part of path.split('/').filter((each) => each !== '')) {
      if (at.kind !== 'directory') throw new CairnError('ENOTDIR', path);
      const next = at.current.get(part);
      if (next === undefined) throw new CairnError('ENOENT', path);
      at = next;
    }
    return at;
  }

  place(path: string): { directory: DirectoryNode; name: string } {
    const parts = path.split('/').filter((each) => each !== '');
    const name = parts.pop();
    if (name === undefined) throw new CairnError('EINVAL', `no name in ${path}`);
    const directory = this.find(parts.join('/'));
    if (directory.kind !== 'directory') throw new CairnError('ENOTDIR', path);
    return { directory, name };
  }

  /** Other programs take all but `leaveBytes`. */
  fill(leaveBytes: number): void {
    this.trace.add(`fault full disk of ${this.host}`);
    this.otherBytes += Math.max(0, this.freeBytes() - leaveBytes);
  }

  freeBytes(): number {
    return Math.max(0, TOTAL_BYTES - this.otherBytes - this.usedBytes());
  }

  usedBytes(): number {
    const sum = (node: Node): number =>
      node.kind === 'file'
        ? node.current.allocatedBytes
        : [...node.current.values()].reduce((total, child) => total + sum(child), 0);
    return sum(this.root);
  }
}

/** The disk as one process sees it: with its death, nothing completes any more. */
class ProcessDisk implements Disk {
  constructor(
    readonly disk: SimulatedDisk,
    readonly owner: Incarnation,
  ) {}

  open(label: DiskLabel, path: string, mode: 'existing' | 'create' | 'exclusive'): Promise<DiskFile> {
    return this.call(label, path, 20, () => {
      const { directory, name } = this.disk.place(path);
      let node = directory.current.get(name);
      if (node !== undefined && mode === 'exclusive') throw new CairnError('EEXIST', `${label} ${path}`);
      if (node === undefined && mode === 'existing') throw new CairnError('ENOENT', `${label} ${path}`);
      if (node === undefined) {
        node = new FileNode();
        directory.set(name, node);
      }
      if (node.kind === 'directory') throw new CairnError('EISDIR', `${label} ${path}`);
      return new ProcessFile(this, node, path);
    });
  }

  mkdir(label: DiskLabel, path: string): Promise<void> {
    return this.call(label, path, 20, () => {
      const { directory, name } = this.disk.place(path);
      if (directory.current.has(name)) throw new CairnError('EEXIST', `${label} ${path}`);
      directory.set(name, new DirectoryNode());
    });
  }

  async *list(label: DiskLabel, path: string): AsyncIterable<string> {
    const names = await this.call(label, path, 30, () => {
      const node = this.disk.find(path);
      if (node.kind !== 'directory') throw new CairnError('ENOTDIR', `${label} ${path}`);
      return [...node.current.keys()];
    });
    // In no order, says the contract: so in another than they were made in.
    for (let left = names.length; left > 0; left--) {
      const [name] = names.splice(this.disk.random.below(left), 1);
      if (name !== undefined) yield name;
    }
  }

  rename(label: DiskLabel, from: string, to: string): Promise<void> {
    return this.call(label, from, 30, () => {
      const source = this.disk.place(from);
      const target = this.disk.place(to);
      const node = source.directory.current.get(source.name);
      if (node === undefined) throw new CairnError('ENOENT', `${label} ${from}`);
      // The new name first: a power loss between the two leaves both, never none.
      target.directory.set(target.name, node);
      source.directory.set(source.name, undefined);
    });
  }

  unlink(label: DiskLabel, path: string): Promise<void> {
    return this.call(label, path, 20, () => {
      const { directory, name } = this.disk.place(path);
      const node = directory.current.get(name);
      if (node === undefined) throw new CairnError('ENOENT', `${label} ${path}`);
      if (node.kind === 'directory') throw new CairnError('EISDIR', `${label} ${path}`);
      directory.set(name, undefined);
    });
  }

  syncDirectory(label: DiskLabel, path: string): Promise<void> {
    const node = this.disk.find(path);
    if (node.kind !== 'directory') return Promise.reject(new CairnError('ENOTDIR', `${label} ${path}`));
    const count = node.unsynced.length;
    return this.call(label, path, 200, () => node.sync(count));
  }

  space(label: DiskLabel, path: string): Promise<DiskSpace> {
    return this.call(label, path, 10, () => ({
      totalBytes: TOTAL_BYTES,
      freeBytes: this.disk.freeBytes(),
    }));
  }

  async lock(label: DiskLabel, path: string): Promise<() => Promise<void>> {
    const { locks } = this.disk;
    await this.call(label, path, 10, () => {
      const holder = locks.get(path);
      if (holder?.isAlive === true) throw new CairnError('EBUSY', `${label} ${path}: another process uses it`);
      locks.set(path, this.owner);
    });
    return () => {
      if (locks.get(path) === this.owner) locks.delete(path);
      return Promise.resolve();
    };
  }

  bootId(): string {
    return this.disk.bootId;
  }

  /** Runs `effect` after about `typicalUs`, and settles then; never, when the process died meanwhile. */
  call<T>(label: DiskLabel, path: string, typicalUs: number, effect: () => T, onKilled?: () => void): Promise<T> {
    const { disk } = this;
    const fault = this.owner.isAlive ? disk.onCall?.(label, path) : undefined;
    const delayUs = typicalUs / 2 + disk.random.below(typicalUs) + (fault?.delayUs ?? 0);
    const pending = { owner: this.owner, onKilled: onKilled ?? ((): void => undefined) };
    if (onKilled !== undefined) disk.pending.add(pending);
    return new Promise((resolve, reject) => {
      disk.clock.schedule(delayUs, () => {
        disk.pending.delete(pending);
        if (!this.owner.isAlive) return;
        disk.trace.add(`disk ${disk.host} ${label} ${path}`);
        try {
          if (fault?.failWith !== undefined) throw new CairnError(fault.failWith, `${label} ${path}: planted fault`);
          resolve(effect());
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  }
}

class ProcessFile implements DiskFile {
  private isOpen = true;

  constructor(
    private readonly process: ProcessDisk,
    private readonly node: FileNode,
    private readonly path: string,
  ) {}

  read(label: DiskLabel, into: Uint8Array, offset: number): Promise<number> {
    return this.call(label, 60, () => this.copyOut(into, offset));
  }

  write(label: DiskLabel, bytes: Uint8Array, offset: number): Promise<void> {
    const { random } = this.process.disk;
    const killed = (): void => {
      const written = random.below(bytes.length + 1);
      if (random.below(2) === 0 && written > 0) this.node.write(offset, bytes.subarray(0, written));
    };
    return this.call(label, 50, () => this.put(label, bytes, offset), killed);
  }

  writeSync(label: DiskLabel, bytes: Uint8Array, offset: number): void {
    this.demandOpen(label);
    const fault = this.process.disk.onCall?.(label, this.path);
    if (fault?.failWith !== undefined) throw new CairnError(fault.failWith, `${label} ${this.path}: planted fault`);
    if (this.process.owner.isAlive) this.put(label, bytes, offset);
  }

  /** What fits is written; the rest finds the disk full. */
  private put(label: DiskLabel, bytes: Uint8Array, offset: number): void {
    const { disk } = this.process;
    const growth = offset + bytes.length - this.node.current.size;
    // Counting what is there takes time: only where it may matter.
    if (growth <= 0 || disk.otherBytes === 0) return this.node.write(offset, bytes);
    const room = disk.freeBytes();
    if (growth <= room) return this.node.write(offset, bytes);
    const fits = Math.max(0, bytes.length - (growth - room));
    if (fits > 0) this.node.write(offset, bytes.subarray(0, fits));
    throw new CairnError('ENOSPC', `${label} ${this.path}: the disk is full`);
  }

  readSync(label: DiskLabel, into: Uint8Array, offset: number): number {
    this.demandOpen(label);
    return this.copyOut(into, offset);
  }

  datasync(label: DiskLabel): Promise<void> {
    // Covers what was written before the call, not what comes while it runs.
    const covered = this.node.unsynced.at(-1);
    return this.call(label, 300, () => {
      if (covered !== undefined) this.node.sync(this.node.unsynced.indexOf(covered) + 1);
    });
  }

  truncate(label: DiskLabel, length: number): Promise<void> {
    return this.call(label, 30, () => this.node.truncate(length));
  }

  truncateSync(label: DiskLabel, length: number): void {
    this.demandOpen(label);
    if (this.process.owner.isAlive) this.node.truncate(length);
  }

  size(label: DiskLabel): Promise<number> {
    return this.call(label, 5, () => this.node.current.size);
  }

  async close(): Promise<void> {
    this.demandOpen('close');
    this.isOpen = false;
  }

  private copyOut(into: Uint8Array, offset: number): number {
    const bytes = this.node.current.read(offset, into.length);
    into.set(bytes);
    return bytes.length;
  }

  private call<T>(label: DiskLabel, typicalUs: number, effect: () => T, onKilled?: () => void): Promise<T> {
    this.demandOpen(label);
    return this.process.call(label, this.path, typicalUs, effect, onKilled);
  }

  private demandOpen(label: DiskLabel): void {
    if (!this.isOpen) throw new CairnError('EBADF', `${label} ${this.path}: the file is closed`);
  }
}
