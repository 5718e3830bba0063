/**
 * Attributes of inodes and names of directories, as the master last told them, for a short time.
 *
 * What this client does itself is seen at once: every own operation invalidates what it changed, and an answer that
 * set out before the invalidation is not taken in afterwards. For that, time is counted in `moments`: a request notes
 * the moment before it is sent, an invalidation starts a new one, and what was asked before it is refused.
 */
import type { Clock } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import { CLIENT_CACHE_TTL_MS, MAX_CACHED_INODES } from '../../core/limits.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import { LruMap } from '../../core/lru.js';

/** When a request was sent, in the cache's count of invalidations. */
export type Moment = number;

const ABSENT = 0 as InodeId;

interface Cached<V> {
  value: V | undefined;
  expiresMs: number;
  /** Answers to requests from before this moment are refused. */
  validFrom: Moment;
}

export interface AttributeCacheOptions {
  readonly clock: Clock;
  /** 0 keeps nothing. */
  readonly ttlMs?: number;
  readonly maxEntries?: number;
}

export class AttributeCache {
  private readonly attributes: LruMap<InodeId, Cached<InodeAttributes>>;
  private readonly names: LruMap<string, Cached<InodeId>>;
  /** The last that each directory was known by. */
  private readonly directoryNames: LruMap<InodeId, string>;
  private moment: Moment = 0;
  /** Nothing from before these moments is valid. */
  private attributesFloor: Moment = 0;
  private namesFloor: Moment = 0;
  private readonly clock: Clock;
  private readonly ttlMs: number;

  constructor(options: AttributeCacheOptions) {
    this.clock = options.clock;
    this.ttlMs = options.ttlMs ?? CLIENT_CACHE_TTL_MS;
    const maxEntries = options.maxEntries ?? MAX_CACHED_INODES;
    // An entry that is forgotten must not let an old answer in.
    this.attributes = new LruMap<InodeId, Cached<InodeAttributes>>(maxEntries, (entry) => {
      this.attributesFloor = Math.max(this.attributesFloor, entry.validFrom);
    });
    this.names = new LruMap<string, Cached<InodeId>>(maxEntries, (entry) => {
      this.namesFloor = Math.max(this.namesFloor, entry.validFrom);
    });
    this.directoryNames = new LruMap<InodeId, string>(maxEntries);
  }

  /** To be noted before a request is sent whose answer is to be put here. */
  now(): Moment {
    return this.moment;
  }

  getAttributes(inode: InodeId): InodeAttributes | undefined {
    return this.fresh(this.attributes.get(inode));
  }

  getName(parent: InodeId, name: Buffer): InodeId | undefined {
    const inode = this.fresh(this.names.get(nameKey(parent, name)));
    return inode === ABSENT ? undefined : inode;
  }

  putAttributes(attributes: InodeAttributes, asked: Moment): void {
    const known = this.attributes.peek(attributes.inode);
    if (known?.value !== undefined && known.value.change > attributes.change) return;
    if (asked < this.attributesFloor) return;
    this.put(this.attributes, attributes.inode, known, attributes, asked);
  }

  /**
   * Takes in what the master said of an inode with its answer to an own change of it, asked at `asked`; undefined when it
   * said nothing. What was known before is forgotten, unless the answer to a later change brought it.
   */
  putChanged(inode: InodeId, attributes: InodeAttributes | undefined, asked: Moment): void {
    const known = this.attributes.peek(inode);
    if (known?.value !== undefined && attributes !== undefined && known.value.change > attributes.change) return;
    // An invalidation since then may be of a change that the answer does not know.
    const invalidated =
      asked < Math.max(this.attributesFloor, known?.value === undefined ? (known?.validFrom ?? 0) : 0);
    this.dropAttributes(inode);
    if (attributes !== undefined && !invalidated) this.putAttributes(attributes, this.moment);
  }

  putName(parent: InodeId, name: Buffer, inode: InodeId, asked: Moment): void {
    const key = nameKey(parent, name);
    if (asked < this.namesFloor) return;
    this.put(this.names, key, this.names.peek(key), inode, asked);
  }

  /** As `putName`, of a directory: that has one name, so another that is believed is old. */
  putDirectoryName(parent: InodeId, name: Buffer, inode: InodeId, asked: Moment): void {
    if (this.ttlMs === 0) return;
    const key = nameKey(parent, name);
    const before = this.directoryNames.get(inode);
    if (before !== key) {
      const old = before === undefined ? undefined : this.names.peek(before);
      if (before !== undefined && old?.value === inode) {
        this.names.set(before, { value: undefined, expiresMs: 0, validFrom: ++this.moment });
      }
      this.directoryNames.set(inode, key);
    }
    this.putName(parent, name, inode, asked);
  }

  /** Notes that the master knows no such name. It is not served, it only spares `dropName` its worst case. */
  putAbsent(parent: InodeId, name: Buffer, asked: Moment): void {
    this.putName(parent, name, ABSENT, asked);
  }

  dropAttributes(inode: InodeId): void {
    this.attributes.set(inode, { value: undefined, expiresMs: 0, validFrom: ++this.moment });
  }

  /** Forgets a name, and the attributes of the inode that it named: its link count may have changed. */
  dropName(parent: InodeId, name: Buffer): void {
    const key = nameKey(parent, name);
    const inode = this.fresh(this.names.peek(key));
    this.names.set(key, { value: undefined, expiresMs: 0, validFrom: ++this.moment });
    if (inode === ABSENT) return;
    if (inode !== undefined) this.dropAttributes(inode);
    else this.dropAllAttributes(); // which inode it named is not known, so any may have changed
  }

  dropAllAttributes(): void {
    this.attributesFloor = ++this.moment;
    this.attributes.clear();
  }

  dropAll(): void {
    this.dropAllAttributes();
    this.namesFloor = this.moment;
    this.names.clear();
  }

  private put<K, V>(map: LruMap<K, Cached<V>>, key: K, known: Cached<V> | undefined, value: V, asked: Moment): void {
    if (this.ttlMs === 0 || (known !== undefined && asked < known.validFrom)) return;
    const expiresMs = this.clock.monotonicMs() + this.ttlMs;
    if (known === undefined) map.set(key, { value, expiresMs, validFrom: 0 });
    else {
      known.value = value;
      known.expiresMs = expiresMs;
    }
  }

  private fresh<V>(entry: Cached<V> | undefined): V | undefined {
    if (entry?.value === undefined) return undefined;
    if (entry.expiresMs <= this.clock.monotonicMs()) {
      entry.value = undefined;
      return undefined;
    }
    return entry.value;
  }
}

const nameKey = (parent: InodeId, name: Buffer): string => `${parent}/${name.toString('latin1')}`;
