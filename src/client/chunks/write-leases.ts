/**
 * The leases under which this client writes chunks: who the primary is, and until when. Asking again renews. After a
 * failure the next question names the lease that failed, so that the master makes a new one and the old one's messages
 * that may still be on their way are refused.
 */
import type { Clock } from '../../core/clock.js';
import { CairnError, hasCode } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_CACHED_LEASES, MAX_COMPLAINTS } from '../../core/limits.js';
import type { LeaseChunkReply, LeaseChunkRequestInit, Replica } from '../../protocol/generated/messages.js';
import type { SyncMark, SyncedChunk } from './chunk-io.js';
import { LruMap } from '../../core/lru.js';

export interface Lease extends SyncMark {
  readonly version: number;
  /** 0: a sync has nothing to do, as there is no chunk, or it is lost. */
  readonly leaseId: number;
  readonly primary: Replica;
  readonly replicas: readonly Replica[];
  /** The master gave it when the file had this layout, or a later one, and what was cut by then is cut. */
  readonly layoutVersion: number;
  /** From when on it is asked for again, in the background, and until when it is used. Monotonic. */
  readonly renewMs: number;
  readonly expiresMs: number;
}

interface Entry {
  readonly inode: InodeId;
  readonly index: number;
  lease: Lease | undefined;
  pending: Promise<Lease> | undefined;
  /** That keeps holes, so it does not serve a write. */
  pendingKeepsHoles: boolean;
  /** The layout that was known when that was asked. */
  pendingLayout: number;
  /** To be named in the next question; 0 for none. */
  failedVersion: number;
  failedLease: number;
  /** A lease that must not come back: a write under it may still be on its way. 0 for none. */
  doubtfulLease: number;
  /** The lease that was refused, without doubt about what had been sent under it. */
  refusedLease: number;
}

export class WriteLeases {
  private readonly entries = new LruMap<string, Entry>(MAX_CACHED_LEASES, (entry, key) => this.evicted(key, entry));
  /** Those that others took the place of while a write was in doubt. */
  private readonly doubts = new LruMap<string, Entry>(MAX_CACHED_LEASES, (entry) => this.forget(entry));
  /** The same by file, so that what a truncate costs does not depend on how many files there are. */
  private readonly byInode = new Map<InodeId, Set<Entry>>();
  /** Times that the master may have lost operations. */
  generation = 0;
  /** Sessions that were lost. */
  lostSessions = 0;

  constructor(
    private readonly clock: Clock,
    private readonly ask: (request: LeaseChunkRequestInit) => Promise<LeaseChunkReply>,
    private readonly onLease: (inode: InodeId, index: number, lease: Lease) => void,
    /** The layout version of the file as the master told it last. */
    private readonly layoutOf: (inode: InodeId) => number = () => 0,
  ) {}

  /**
   * The lease of a chunk, asked for when there is none or it ran out. Allocates the chunk in a hole, unless it `keepsHoles`. One
   * from before a truncate that is known here is asked for anew: the cut may still be on its way to the primary, and would take
   * away what is written before it.
   */
  get(inode: InodeId, index: number, keepsHoles = false): Lease | Promise<Lease> {
    const entry = this.entryOf(inode, index);
    const { lease } = entry;
    const layout = this.layoutOf(inode);
    if (entry.pendingLayout < layout || (entry.pendingKeepsHoles && !keepsHoles)) entry.pending = undefined;
    if (lease !== undefined) {
      const now = this.clock.monotonicMs();
      if (now < lease.expiresMs && lease.layoutVersion >= layout) {
        if (now >= lease.renewMs && entry.pending === undefined) {
          // In the background: a failure shows when the lease runs out and is asked for in earnest.
          this.request(entry, keepsHoles).catch(() => undefined);
        }
        return lease;
      }
      entry.lease = undefined;
    }
    return entry.pending ?? this.request(entry, keepsHoles);
  }

  /**
   * A request under `lease` failed. A plain refusal only asks anew, but the second under the same lease is named to the
   * master, as is an unreachable primary. After a write in doubt the same lease will not do, even if the master finds
   * it in order: only another one makes sure that what is still on its way is refused, and does not overwrite what
   * is written after it. False when others under the lease failed before.
   */
  failed(inode: InodeId, index: number, lease: Lease, how: 'refused' | 'unreachable' | 'inDoubt'): boolean {
    const entry = this.entryOf(inode, index);
    if (entry.lease !== undefined && entry.lease.leaseId !== lease.leaseId) return false; // a newer one is there already
    if (lease.leaseId < Math.max(entry.failedLease, entry.doubtfulLease)) return false; // or was, and failed as well
    // Of many writes that fail together, only the first counts as a refusal.
    const first = entry.lease !== undefined;
    if (first) {
      entry.lease = undefined;
      entry.pending = undefined; // a renewal of what failed
    }
    const suspect = how !== 'refused' || (first && entry.refusedLease === lease.leaseId);
    if (suspect && entry.failedLease !== lease.leaseId) {
      entry.pending = undefined; // asked without naming it
      entry.failedVersion = lease.version;
      entry.failedLease = lease.leaseId;
    }
    if (how === 'inDoubt') entry.doubtfulLease = lease.leaseId;
    if (first) entry.refusedLease = lease.leaseId;
    return first;
  }

  /** The master knows that the chunk was synced: a sync under this lease need not tell it again. */
  noteSynced({ inode, index, handle }: SyncedChunk): void {
    const entry = this.entries.peek(key(inode, index));
    if (entry?.lease?.handle === handle) entry.lease = { ...entry.lease, unsynced: false };
  }

  /**
   * Forgets the leases of a file's chunks from `fromIndex` on: a truncate dropped the chunks. A doubt stays: what is on its way
   * may come all the same.
   */
  drop(inode: InodeId, fromIndex: number): void {
    for (const entry of [...(this.byInode.get(inode) ?? [])]) if (entry.index >= fromIndex) this.dropLease(entry);
  }

  /** The master ended the session, and may have ended the leases by which this client wrote. */
  sessionLost(): void {
    this.lostSessions++;
    for (const entry of this.all()) this.dropLease(entry);
  }

  /** The master lost operations: it may not know any more what it leased. */
  operationsLost(): void {
    this.generation++;
    for (const entry of this.all()) this.dropLease(entry);
  }

  /** Some write of the file is in doubt, and others may yet write under its lease. */
  hasDoubts(inode: InodeId): boolean {
    return this.doubtsOf(inode).length > 0;
  }

  /**
   * Resolves when nobody gets the leases any more under which writes of the file are in doubt: so those come before all that others
   * write from now on, or are refused. TIMEOUT when the master could not be asked.
   */
  async settleDoubts(inode: InodeId): Promise<void> {
    const settle = async (entry: Entry): Promise<void> => {
      const { doubtfulLease } = entry;
      try {
        await this.get(inode, entry.index, true);
      } catch (error) {
        if (hasCode(error, 'TIMEOUT') && !hasCode(error.cause, 'UNAVAILABLE')) throw error;
        // The master has no other lease to give just now, and gives this one to nobody.
        if (entry.doubtfulLease === doubtfulLease) entry.doubtfulLease = 0;
      }
    };
    await Promise.all(this.doubtsOf(inode).map(settle));
  }

  private doubtsOf(inode: InodeId): Entry[] {
    return [...(this.byInode.get(inode) ?? [])].filter(({ doubtfulLease }) => doubtfulLease !== 0);
  }

  private dropLease(entry: Entry): void {
    entry.lease = entry.pending = undefined;
    if (entry.doubtfulLease !== 0) return;
    this.entries.delete(key(entry.inode, entry.index));
    this.doubts.delete(key(entry.inode, entry.index));
    this.forget(entry);
  }

  private all(): Entry[] {
    return [...this.entries.values(), ...this.doubts.values()];
  }

  private entryOf(inode: InodeId, index: number): Entry {
    const place = key(inode, index);
    let entry = this.entries.get(place) ?? this.doubtAt(place);
    if (entry === undefined) {
      entry = {
        inode,
        index,
        lease: undefined,
        pending: undefined,
        pendingLayout: 0,
        pendingKeepsHoles: false,
        failedVersion: 0,
        failedLease: 0,
        doubtfulLease: 0,
        refusedLease: 0,
      };
      this.entries.set(place, entry);
      const others = this.byInode.get(inode);
      if (others === undefined) this.byInode.set(inode, new Set([entry]));
      else others.add(entry);
    }
    return entry;
  }

  private doubtAt(place: string): Entry | undefined {
    const entry = this.doubts.peek(place);
    if (entry === undefined) return undefined;
    this.doubts.delete(place);
    this.entries.set(place, entry);
    return entry;
  }

  private evicted(place: string, entry: Entry): void {
    if (entry.doubtfulLease === 0) this.forget(entry);
    else this.doubts.set(place, entry);
  }

  private forget(entry: Entry): void {
    const others = this.byInode.get(entry.inode);
    if (others?.delete(entry) === true && others.size === 0) this.byInode.delete(entry.inode);
  }

  private async askUntilFenced(entry: Entry, keepsHoles: boolean): Promise<LeaseChunkReply> {
    const { inode, index } = entry;
    for (let complaints = 1; ; complaints++) {
      const { failedVersion, failedLease } = entry;
      const reply = await this.ask({ inode, index, failedVersion, failedLease, keepsHoles });
      if (entry.doubtfulLease === 0 || reply.leaseId !== entry.doubtfulLease) return reply;
      if (complaints === MAX_COMPLAINTS) {
        throw new CairnError('TIMEOUT', `the master keeps lease ${reply.leaseId}, under which a write is in doubt`);
      }
    }
  }

  private request(entry: Entry, keepsHoles: boolean): Promise<Lease> {
    const { inode, index } = entry;
    const askedMs = this.clock.monotonicMs();
    const { generation } = this;
    const layout = this.layoutOf(inode);
    entry.pendingLayout = layout;
    entry.pendingKeepsHoles = keepsHoles;
    const pending: Promise<Lease> = this.askUntilFenced(entry, keepsHoles).then(
      (reply) => {
        const lease = toLease(reply, askedMs, { generation, layout });
        if (entry.pending === pending) {
          entry.pending = undefined;
          const renewed = entry.lease?.leaseId === lease.leaseId;
          entry.lease = lease.leaseId === 0 ? undefined : lease;
          entry.failedVersion = entry.failedLease = entry.doubtfulLease = 0;
          if (!renewed && entry.lease !== undefined) this.onLease(inode, index, lease);
        }
        return lease;
      },
      (error: unknown) => {
        if (entry.pending === pending) entry.pending = undefined;
        throw error;
      },
    );
    entry.pending = pending;
    return pending;
  }
}

const key = (inode: InodeId, index: number): string => `${inode}:${index}`;

function toLease(
  reply: LeaseChunkReply,
  askedMs: number,
  { generation, layout }: { readonly generation: number; readonly layout: number },
): Lease {
  return {
    handle: reply.handle,
    version: reply.version,
    leaseId: reply.leaseId,
    primary: reply.primary ?? { serverId: 0, address: '' },
    replicas: reply.replicas,
    layoutVersion: Math.max(reply.layoutVersion, layout),
    losses: reply.losses,
    unsynced: reply.unsynced,
    generation,
    renewMs: askedMs + reply.leaseTtlMs / 2,
    expiresMs: askedMs + reply.leaseTtlMs * 0.9,
  };
}
