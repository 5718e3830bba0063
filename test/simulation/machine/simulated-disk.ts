/**
 * The disk of one simulated machine. What a process wrote survives the process (the page cache); what was synced
 * survives the machine. Power loss keeps any part of the rest: each unsynced write wholly, not at all, or torn at a
 * sector, and of each directory a prefix of its unsynced changes.
 */
import { CairnError } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import type { Disk, DiskLabel } from '../../../src/core/disk/disk.js';
import type { Random } from '../../../src/core/random.js';
import type { SimulatedClock } from './simulated-clock.js';
import type { Incarnation } from './simulated-network.js';
import type { Trace } from '../world/trace.js';
import { FileNode, DirectoryNode, type Node, type Snapshot } from './disk-nodes.js';
import { TOTAL_BYTES, ProcessDisk } from './process-disk.js';

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
