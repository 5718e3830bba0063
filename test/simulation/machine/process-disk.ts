/** A simulated disk and its files as one process sees them. */
import { CairnError } from '../../../src/core/errors.js';
import type { Disk, DiskFile, DiskLabel, DiskSpace } from '../../../src/core/disk/disk.js';
import { GIB } from '../../../src/core/limits.js';
import type { Incarnation } from './simulated-network.js';
import { FileNode, DirectoryNode } from './disk-nodes.js';
import type { SimulatedDisk } from './simulated-disk.js';

export const TOTAL_BYTES = 100 * GIB;

/** The disk as one process sees it: with its death, nothing completes any more. */
export class ProcessDisk implements Disk {
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
