/**
 * The disk of one simulated machine. What a process wrote survives the process (the page cache); what was synced
 * survives the machine. Power loss keeps any part of the rest: each unsynced write wholly, not at all, or torn at a
 * sector, and of each directory a prefix of its unsynced changes.
 */
import { CairnError } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import type { Disk, DiskFile, DiskLabel, DiskSpace } from '../../../src/core/disk/disk.js';
import { GIB, MIB } from '../../../src/core/limits.js';
import type { Random } from '../../../src/core/random.js';
import { SparseBytes } from '../../support/sparse-bytes.js';
import type { SimulatedClock } from './simulated-clock.js';
import type { Incarnation } from './simulated-network.js';
import type { Trace } from '../world/trace.js';

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

  /** Returns how many changes were lost, wholly or in part. */
  losePower(random: Pick<Random, 'below'>): number {
    let lost = 0;
    for (const change of this.unsynced.splice(0)) {
      const fate = random.below(3);
      if (fate !== 1) lost++;
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
    return lost;
  }

  /** A sync failed: the kernel takes the pages for written all the same, and no later sync tells. */
  loseUnsynced(random: Pick<Random, 'below'>): void {
    for (const change of this.unsynced.splice(0)) {
      if (random.below(2) === 0) continue;
      if (change.kind === 'truncate') this.durable.truncate(change.length);
      else this.durable.write(change.offset, change.bytes);
    }
    this.unsyncedBytes = 0;
  }

  /** As it is in the page cache, all of it on the platter. */
  clone(): FileNode {
    const copy = new FileNode();
    copy.current = this.current.clone();
    copy.durable = this.current.clone();
    return copy;
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

  losePower(random: Pick<Random, 'below'>): number {
    this.sync(random.below(this.unsynced.length + 1));
    let lost = this.unsynced.length;
    this.unsynced.length = 0;
    this.current = new Map(this.durable);
    for (const node of this.current.values()) lost += node.losePower(random);
    return lost;
  }

  clone(): DirectoryNode {
    const copy = new DirectoryNode();
    for (const [name, node] of this.current) copy.current.set(name, node.clone());
    copy.durable = new Map(copy.current);
    return copy;
  }
}

type Node = FileNode | DirectoryNode;

/** What a directory had in it at some time. */
export type Snapshot = DirectoryNode;

/** The worst luck: nothing that was not synced reaches the platter. */
const NOTHING: Pick<Random, 'below'> = { below: () => 0 };

/** What a test wants to happen to one call. */
export interface DiskFault {
  readonly failWith?: ErrorCode;
  readonly delayUs?: number;
  /** The call does not return before the fault is lifted, if its process lives so long. */
  readonly hangs?: boolean;
}

/** A fault of many calls, while it lasts. */
export class PlantedFault {
  /** Calls that met it. */
  hits = 0;
  readonly waiting: (() => void)[] = [];

  constructor(
    readonly matches: (label: DiskLabel, path: string) => boolean,
    readonly fault: DiskFault,
  ) {}
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
  private readonly planted = new Set<PlantedFault>();
  /** Bytes that other programs have on each volume: a directory of the root is a file system of its own. */
  private readonly otherBytes = new Map<string, number>();
  /** What is mounted nowhere now, by where it belongs. */
  private readonly unmounted = new Map<string, Node>();
  /** Calls that found a volume full. */
  fullHits = 0;
  /** Writes to chunk files so far, by volume. */
  private readonly changes = new Map<string, number>();

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

  /** Returns how many changes were lost. */
  losePower(keeps: 'some' | 'nothing' = 'some'): number {
    this.trace.add(`fault power-loss of the disk of ${this.host}`);
    this.boots++;
    return this.root.losePower(keeps === 'some' ? this.random : NOTHING);
  }

  /**
   * The volume is unmounted after it failed, and mounted again: what was not synced may be gone, and the machine has not booted.
   * For a machine whose processes are down. Returns how many changes were lost.
   */
  remount(path: string, keeps: 'some' | 'nothing' = 'some'): number {
    this.trace.add(`fault remount ${this.host}${path}`);
    const node = this.find(path);
    return node.losePower(keeps === 'some' ? this.random : NOTHING);
  }

  /** Calls that match meet the fault until it is lifted. */
  plant(matches: (label: DiskLabel, path: string) => boolean, fault: DiskFault): PlantedFault {
    const planted = new PlantedFault(matches, fault);
    this.planted.add(planted);
    return planted;
  }

  /** Calls that hang go on. */
  lift(planted: PlantedFault): void {
    this.planted.delete(planted);
    for (const goOn of planted.waiting.splice(0)) this.clock.schedule(0, goOn);
  }

  /** What happens to a call, and which planted fault says so. */
  faultOf(label: DiskLabel, path: string): { fault: DiskFault; planted?: PlantedFault } | undefined {
    const fault = this.onCall?.(label, path);
    if (fault !== undefined) return { fault };
    for (const planted of this.planted) {
      if (!planted.matches(label, path)) continue;
      planted.hits++;
      return { fault: planted.fault, planted };
    }
    return undefined;
  }

  /** The volume is not mounted: what shows at its place is an empty directory. For a machine whose processes are down. */
  unmount(path: string): void {
    this.trace.add(`fault unmount ${this.host}${path}`);
    this.unmounted.set(path, this.find(path));
    this.put(path, new DirectoryNode());
  }

  /** At its place, or at that of another one. */
  mount(path: string, at = path): void {
    const volume = this.unmounted.get(path);
    if (volume === undefined) return;
    this.trace.add(`mount ${this.host}${path}${at === path ? '' : ` at ${at}`}`);
    this.unmounted.delete(path);
    this.put(at, volume);
  }

  noteChange(path: string): void {
    this.changes.set(volumeOf(path), this.changesOf(path) + 1);
  }

  /** How often a chunk's file was written on the volume of `path`. */
  changesOf(path: string): number {
    return this.changes.get(volumeOf(path)) ?? 0;
  }

  /** What is in a directory now, for `putBack`. */
  snapshot(path: string): Snapshot {
    const node = this.find(path);
    if (node.kind !== 'directory') throw new CairnError('ENOTDIR', path);
    return node.clone();
  }

  /** The directory is as it was. For a machine whose processes are down. */
  putBack(path: string, snapshot: Snapshot): void {
    this.trace.add(`fault put-back ${this.host}${path}`);
    this.put(path, snapshot.clone());
  }

  /** A new, empty disk in the place of another. For a machine whose processes are down. */
  replaceVolume(path: string): void {
    this.trace.add(`new disk ${this.host}${path}`);
    this.put(path, new DirectoryNode());
  }

  private put(path: string, node: Node): void {
    const { directory, name } = this.place(path);
    directory.set(name, node);
    directory.sync(directory.unsynced.length);
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

  /** A file as an earlier world left it, on the platter, with the directories above it. For a machine whose processes are down. */
  plantFile(path: string, content: Uint8Array): void {
    const parts = path.split('/').slice(1, -1);
    parts.reduce((above, part) => {
      const at = `${above}/${part}`;
      const { directory, name } = this.place(at);
      if (!directory.current.has(name)) this.put(at, new DirectoryNode());
      return at;
    }, '');
    const file = new FileNode();
    file.write(0, content);
    file.sync(Infinity);
    this.put(path, file);
  }

  /** A file is gone, from the platter too. */
  remove(path: string): void {
    this.trace.add(`fault remove ${this.host}${path}`);
    const { directory, name } = this.place(path);
    directory.set(name, undefined);
    directory.sync(Infinity);
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

  /** Flips bits of one byte, on the platter and in the page cache. */
  rot(path: string, offset: number): void {
    const byte = this.content(path).subarray(offset, offset + 1);
    this.corrupt(path, offset, Buffer.from([(byte[0] ?? 0) ^ (1 + this.random.below(255))]));
  }

  /** Other programs take all but `leaveBytes` of each volume, or of one. */
  fill(leaveBytes: number, only?: string): void {
    this.trace.add(`fault full disk of ${this.host}${only ?? ''}`);
    for (const name of this.root.current.keys()) {
      const path = `/${name}`;
      if (only !== undefined && path !== only) continue;
      this.otherBytes.set(name, this.otherBytesOf(path) + Math.max(0, this.freeBytes(path) - leaveBytes));
    }
  }

  /** Other programs have nothing on any volume, or on one, any more. */
  makeRoom(only?: string): void {
    this.trace.add(`room on ${this.host}${only ?? ''}`);
    if (only === undefined) this.otherBytes.clear();
    else this.otherBytes.delete(volumeOf(only));
  }

  otherBytesOf(path: string): number {
    return this.otherBytes.get(volumeOf(path)) ?? 0;
  }

  /** Free on the volume that `path` is on. */
  freeBytes(path: string): number {
    return Math.max(0, TOTAL_BYTES - this.otherBytesOf(path) - this.usedBytes(path));
  }

  usedBytes(path: string): number {
    const sum = (node: Node): number =>
      node.kind === 'file'
        ? node.current.allocatedBytes
        : [...node.current.values()].reduce((total, child) => total + sum(child), 0);
    const volume = this.root.current.get(volumeOf(path));
    return volume === undefined ? 0 : sum(volume);
  }
}

function volumeOf(path: string): string {
  return path.split('/')[1] ?? '';
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
      freeBytes: this.disk.freeBytes(path),
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

  /**
   * Runs `effect` after about `typicalUs`, and settles then; never, when the process died meanwhile. `inPart` is what a
   * call may have done that was cut short, `failed` what one does that fails.
   */
  call<T>(
    label: DiskLabel,
    path: string,
    typicalUs: number,
    effect: () => T,
    parts: { readonly inPart?: () => void; readonly failed?: () => void } = {},
  ): Promise<T> {
    const { disk, owner } = this;
    const met = owner.isAlive ? disk.faultOf(label, path) : undefined;
    const { fault, planted } = met ?? {};
    const delayUs = typicalUs / 2 + disk.random.below(typicalUs) + (fault?.delayUs ?? 0);
    const pending = { owner, onKilled: parts.inPart ?? ((): void => undefined) };
    if (parts.inPart !== undefined) disk.pending.add(pending);
    return new Promise((resolve, reject) => {
      const complete = (): void => {
        if (!owner.isAlive) return;
        disk.pending.delete(pending);
        disk.trace.add(`disk ${disk.host} ${label} ${path}`);
        try {
          if (fault?.failWith !== undefined) {
            parts.failed?.();
            throw new CairnError(fault.failWith, `${label} ${path}: planted fault`);
          }
          resolve(effect());
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      };
      disk.clock.schedule(delayUs, () => {
        const goOn = (): void => owner.time.whenAwake(complete);
        if (fault?.hangs === true && planted !== undefined) planted.waiting.push(goOn);
        else goOn();
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
    const inPart = (): void => {
      const written = random.below(bytes.length + 1);
      if (random.below(2) === 0 && written > 0) this.node.write(offset, bytes.subarray(0, written));
    };
    return this.call(label, 50, () => this.put(label, bytes, offset), { inPart, failed: inPart });
  }

  writeSync(label: DiskLabel, bytes: Uint8Array, offset: number): void {
    this.demandOpen(label);
    if (!this.process.owner.isAlive) return;
    this.failIfPlanted(label);
    this.put(label, bytes, offset);
  }

  /** A call that does not wait can fail, but not be slow. */
  private failIfPlanted(label: DiskLabel): void {
    const failWith = this.process.disk.faultOf(label, this.path)?.fault.failWith;
    if (failWith !== undefined) throw new CairnError(failWith, `${label} ${this.path}: planted fault`);
  }

  /** What fits is written; the rest finds the disk full. */
  private put(label: DiskLabel, bytes: Uint8Array, offset: number): void {
    const { disk } = this.process;
    if (this.path.includes('/chunks/')) disk.noteChange(this.path);
    const growth = offset + bytes.length - this.node.current.size;
    // Counting what is there takes time: only where it may matter.
    if (growth <= 0 || disk.otherBytesOf(this.path) === 0) return this.node.write(offset, bytes);
    const room = disk.freeBytes(this.path);
    if (growth <= room) return this.node.write(offset, bytes);
    const fits = Math.max(0, bytes.length - (growth - room));
    if (fits > 0) this.node.write(offset, bytes.subarray(0, fits));
    disk.fullHits++;
    throw new CairnError('ENOSPC', `${label} ${this.path}: the disk is full`);
  }

  readSync(label: DiskLabel, into: Uint8Array, offset: number): number {
    this.demandOpen(label);
    this.failIfPlanted(label);
    return this.copyOut(into, offset);
  }

  datasync(label: DiskLabel): Promise<void> {
    // Covers what was written before the call, not what comes while it runs.
    const covered = this.node.unsynced.at(-1);
    const failed = (): void => this.node.loseUnsynced(this.process.disk.random);
    const effect = (): void => {
      if (covered !== undefined) this.node.sync(this.node.unsynced.indexOf(covered) + 1);
    };
    return this.call(label, 300, effect, { failed });
  }

  truncate(label: DiskLabel, length: number): Promise<void> {
    return this.call(label, 30, () => this.node.truncate(length));
  }

  truncateSync(label: DiskLabel, length: number): void {
    this.demandOpen(label);
    if (!this.process.owner.isAlive) return;
    this.failIfPlanted(label);
    this.node.truncate(length);
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

  private call<T>(
    label: DiskLabel,
    typicalUs: number,
    effect: () => T,
    parts?: { readonly inPart?: () => void; readonly failed?: () => void },
  ): Promise<T> {
    this.demandOpen(label);
    return this.process.call(label, this.path, typicalUs, effect, parts);
  }

  private demandOpen(label: DiskLabel): void {
    if (!this.isOpen) throw new CairnError('EBADF', `${label} ${this.path}: the file is closed`);
  }
}
