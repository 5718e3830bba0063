/**
 * Attributes of inodes and names of directories, as the master last told them: for as long as the holding stands under which it
 * told them, and without one for a short time.
 *
 * What this client does itself is seen at once: every own operation invalidates what it changed, as a recall does with what others are
 * about to change, and an answer that set out before the invalidation is not taken in afterwards. For that, time is counted in
 * `moments`: a request notes the moment before it is sent, an invalidation starts a new one, and what was asked before it is refused.
 */
import type { Clock } from '../../core/clock.js';
import { inodeId, type InodeId } from '../../core/ids.js';
import { CLIENT_CACHE_TTL_MS, MAX_CACHED_INODES } from '../../core/limits.js';
import { Holdings, Moments } from '../session/holdings.js';
import type { Holding, Moment } from '../session/holdings.js';
import type { InodeAttributes } from '../session/wire-attributes.js';
import { LruMap } from '../../core/lru.js';

export type { Moment };

const ABSENT = 0 as InodeId;

interface Cached<V> {
  value: V | undefined;
  /** Unless it was told under a holding. */
  expiresMs: number;
  holding: Holding | undefined;
  /** Answers to requests from before this moment are refused. */
  validFrom: Moment;
}

export interface AttributeCacheOptions {
  readonly clock: Clock;
  /** Default: none are wanted. */
  readonly holdings?: Holdings;
  readonly moments?: Moments;
  /** How long is believed what was told under no holding; 0 keeps nothing of that. */
  readonly ttlMs?: number;
  readonly maxEntries?: number;
}

export class AttributeCache {
  private readonly attributes: LruMap<InodeId, Cached<InodeAttributes>>;
  private readonly names: LruMap<string, Cached<InodeId>>;
  /** The last that each directory was known by. */
  private readonly directoryNames: LruMap<InodeId, string>;
  /** Nothing from before these moments is valid. */
  private attributesFloor: Moment = 0;
  private namesFloor: Moment = 0;
  private readonly clock: Clock;
  private readonly moments: Moments;
  private readonly holdings: Holdings;
  private readonly ttlMs: number;

  constructor(options: AttributeCacheOptions) {
    this.clock = options.clock;
    this.moments = options.moments ?? new Moments();
    this.holdings = options.holdings ?? new Holdings(options.clock, this.moments, false);
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
    return this.moments.now();
  }

  getAttributes(inode: InodeId): InodeAttributes | undefined {
    return this.fresh(this.attributes.get(inode));
  }

  getName(parent: InodeId, name: Buffer): InodeId | undefined {
    const inode = this.fresh(this.names.get(nameKey(parent, name)));
    return inode === ABSENT ? undefined : inode;
  }

  /** No such name is there: that is served only if it was told under a holding. */
  knowsAbsent(parent: InodeId, name: Buffer): boolean {
    const entry = this.names.get(nameKey(parent, name));
    return entry?.holding !== undefined && this.fresh(entry) === ABSENT;
  }

  /** Milliseconds for which it stays true that the name leads to `inode`, or to nothing. */
  nameMs(parent: InodeId, name: Buffer, inode: InodeId | undefined): number {
    return this.validMs(this.names.peek(nameKey(parent, name)), (known) => known === (inode ?? ABSENT));
  }

  /** Milliseconds for which these stay the attributes of their inode. */
  attributesMs(inode: InodeId, change: number): number {
    return this.validMs(this.attributes.peek(inode), (known) => known.change === change);
  }

  private validMs<V>(entry: Cached<V> | undefined, isSame: (value: V) => boolean): number {
    if (entry?.value === undefined || entry.holding?.stands !== true || !isSame(entry.value)) return 0;
    return this.holdings.validMs;
  }

  putAttributes(attributes: InodeAttributes, asked: Moment): void {
    const known = this.attributes.peek(attributes.inode);
    if (known?.value !== undefined && known.value.change > attributes.change) return;
    if (asked < this.attributesFloor) return;
    const holding = this.holdings.take(attributes.heldBy, attributes.grant, asked);
    this.put(this.attributes, attributes.inode, known, attributes, asked, holding);
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
    if (attributes !== undefined && !invalidated) this.putAttributes(attributes, this.moments.now());
  }

  /** `grant`: of the holding of `parent` under which it was told. */
  putName(parent: InodeId, name: Buffer, inode: InodeId, asked: Moment, grant = 0): void {
    const key = nameKey(parent, name);
    if (asked < this.namesFloor) return;
    this.put(this.names, key, this.names.peek(key), inode, asked, this.holdings.take(parent, grant, asked));
  }

  /** As `putName`, of a directory: that has one name, so another that is believed is old. */
  putDirectoryName(parent: InodeId, name: Buffer, inode: InodeId, asked: Moment, grant = 0): void {
    if (this.ttlMs === 0 && grant === 0) return this.putName(parent, name, inode, asked);
    const key = nameKey(parent, name);
    const before = this.directoryNames.get(inode);
    if (before !== key) {
      const old = before === undefined ? undefined : this.names.peek(before);
      if (before !== undefined && old?.value === inode) {
        this.forget(this.names, before);
      }
      this.directoryNames.set(inode, key);
    }
    this.putName(parent, name, inode, asked, grant);
  }

  /** The directory in which this one stands, as far as that is known. */
  parentOf(directory: InodeId): InodeId | undefined {
    const key = this.directoryNames.peek(directory);
    return key === undefined ? undefined : inodeId(Number(key.slice(0, key.indexOf('/'))));
  }

  /** Notes that the master knows no such name. Without a holding it is not served, it only spares `dropName` its worst case. */
  putAbsent(parent: InodeId, name: Buffer, asked: Moment, grant = 0): void {
    this.putName(parent, name, ABSENT, asked, grant);
  }

  dropAttributes(inode: InodeId): void {
    this.forget(this.attributes, inode);
  }

  /** Others are about to change what the name leads to; what that means to inodes is said of them. */
  recallName(parent: InodeId, name: Buffer): void {
    this.forget(this.names, nameKey(parent, name));
  }

  /** Forgets a name, and the attributes of the inode that it named: its link count may have changed. */
  dropName(parent: InodeId, name: Buffer): void {
    const key = nameKey(parent, name);
    const inode = this.fresh(this.names.peek(key));
    this.forget(this.names, key);
    if (inode === ABSENT) return;
    if (inode !== undefined) this.dropAttributes(inode);
    else this.dropAllAttributes(); // which inode it named is not known, so any may have changed
  }

  /**
   * An own change of a name, which was asked for at `asked`, was answered under the grant of its directory: it leads to `inode` now, or to
   * nothing. What was known is forgotten, as by `dropName`; and that is known, unless others changed it since.
   */
  changedName(parent: InodeId, name: Buffer, inode: InodeId | 'nothing', asked: Moment, grant: number): void {
    const isCurrent = this.isCurrent(parent, name, asked);
    this.dropName(parent, name);
    if (!isCurrent || grant === 0) return;
    if (inode === 'nothing') this.putAbsent(parent, name, this.now(), grant);
    else this.putName(parent, name, inode, this.now(), grant);
  }

  /** As `changedName`, of a name that led to nothing before. */
  madeName(parent: InodeId, name: Buffer, inode: InodeId, asked: Moment, grant: number, isDirectory: boolean): void {
    const isCurrent = this.isCurrent(parent, name, asked);
    this.forget(this.names, nameKey(parent, name));
    if (!isCurrent) return;
    if (isDirectory) this.putDirectoryName(parent, name, inode, this.now(), grant);
    else this.putName(parent, name, inode, this.now(), grant);
  }

  /** Nothing that was recalled or changed here since makes the answer to what was asked about a name old. */
  private isCurrent(parent: InodeId, name: Buffer, asked: Moment): boolean {
    return asked >= Math.max(this.namesFloor, this.names.peek(nameKey(parent, name))?.validFrom ?? 0);
  }

  dropAllAttributes(): void {
    this.attributesFloor = this.moments.next();
    this.attributes.clear();
  }

  dropAll(): void {
    this.dropAllAttributes();
    this.namesFloor = this.moments.now();
    this.names.clear();
  }

  private forget<K, V>(map: LruMap<K, Cached<V>>, key: K): void {
    map.set(key, { value: undefined, expiresMs: 0, holding: undefined, validFrom: this.moments.next() });
  }

  private put<K, V>(
    map: LruMap<K, Cached<V>>,
    key: K,
    known: Cached<V> | undefined,
    value: V,
    asked: Moment,
    holding: Holding | undefined,
  ): void {
    if (known !== undefined && asked < known.validFrom) return;
    if (this.ttlMs === 0 && holding === undefined) {
      if (known !== undefined) known.value = undefined;
      return;
    }
    const expiresMs = holding === undefined ? this.clock.monotonicMs() + this.ttlMs : 0;
    if (known === undefined) map.set(key, { value, expiresMs, holding, validFrom: 0 });
    else {
      known.value = value;
      known.expiresMs = expiresMs;
      known.holding = holding;
    }
  }

  private fresh<V>(entry: Cached<V> | undefined): V | undefined {
    if (entry?.value === undefined) return undefined;
    const { holding } = entry;
    if (holding !== undefined) {
      if (this.holdings.isGood(holding)) return entry.value;
      if (!holding.stands) entry.value = undefined;
      return undefined;
    }
    if (entry.expiresMs <= this.clock.monotonicMs()) {
      entry.value = undefined;
      return undefined;
    }
    return entry.value;
  }
}

const nameKey = (parent: InodeId, name: Buffer): string => `${parent}/${name.toString('latin1')}`;
