/** What is on a simulated disk: files and directories, what of them is synced, and what a loss of power leaves. */
import { MIB } from '../../../src/core/limits.js';
import type { Random } from '../../../src/core/random.js';
import { SparseBytes } from '../../support/sparse-bytes.js';

const SECTOR_BYTES = 512;
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

export class FileNode {
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

export class DirectoryNode {
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

export type Node = FileNode | DirectoryNode;

/** What a directory had in it at some time. */
export type Snapshot = DirectoryNode;
