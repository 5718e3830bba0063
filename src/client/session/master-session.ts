/**
 * The client's session at the master: what it shows to resume it over a reconnect or a restart of the master, what it tells
 * then that it holds (`reclaim`), and what it learns: that the session ended, that the master lost power, or that it was
 * put back to an older state. What the end of the session means to files and locks: files/file-table.ts, `sessionLost`.
 */
import type { Logger } from '../../core/logging/logger.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_CHUNKS_PER_PAGE } from '../../core/limits.js';
import { later, NEVER } from '../../core/master-time.js';
import type { MasterTime } from '../../core/master-time.js';
import type { LockStateInit, MasterMark, OpenStateInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { Peer } from '../../protocol/rpc.js';
import type { Holdings } from './holdings.js';
import type { OperationIds } from './operation-ids.js';
import { PartedInodes } from './parted-inodes.js';

export interface MasterSessionOptions {
  readonly logger: Logger;
  /** Host and process, for the operator. */
  readonly clientName: string;
  /** What the session holds open now. */
  readonly opens: () => Iterable<OpenStateInit>;
  /** What it has locked. */
  readonly locks: () => Iterable<LockStateInit>;
  /** The master lost power: what it was told and what was not synced may be gone: all but the first `kept` changes. */
  readonly onOperationsLost: (kept: number) => void;
  /** The inodes whose append leases it holds. */
  readonly appends: () => readonly number[];
  /** What it holds at the master, and may answer from memory. */
  readonly holdings: Holdings;
  /** These holdings ended: what was told under them is to be forgotten. All of them without any. */
  readonly onHoldingsEnded: (inodes?: readonly InodeId[]) => Promise<void> | undefined;
  /** It was told what it holds; others hold the append leases of these inodes by now. */
  readonly onReclaimed: (lostAppends: readonly number[]) => void;
  /** The session ended, a new one takes its place: what the old one did not publish is gone. */
  readonly onSessionLost: () => void;
}

export class MasterSession {
  private id = 0;
  private cluster = '';
  /** Shown to resume the session. */
  private token = Buffer.alloc(0);
  /** How far this client has followed its master, to be shown to the next. */
  private mark: MasterMark | null = null;
  /** Of the master that it was connected to last. */
  private epoch = 0;
  private readonly parted = new PartedInodes();
  private latestTime: MasterTime = NEVER;
  /** Changes that were answered, and how many of them a sync covers. What a writer publishes does not count: it does so again. */
  private answeredChanges = 0;
  private syncedChanges = 0;
  private lossCount = 0;

  constructor(
    private readonly options: MasterSessionOptions,
    private readonly operations: OperationIds,
    /** What is open was looked up, and is told now: what is closed from now on is not in that. */
    private readonly onReclaiming: () => void,
  ) {}

  get sessionId(): number {
    return this.id;
  }

  get clusterId(): string {
    return this.cluster;
  }

  /** The latest time of the master that an answer came from: chunkservers that were given up before are not believed. */
  get masterTime(): MasterTime {
    return this.latestTime;
  }

  /** Changes that were answered. */
  get changes(): number {
    return this.answeredChanges;
  }

  /** Times that the master may have lost changes of this client which no sync covered. */
  get losses(): number {
    return this.lossCount;
  }

  /** Resumes the session over a new connection, or begins one, and tells what it holds. */
  async open(peer: Peer): Promise<void> {
    const { logger, clientName, onSessionLost, holdings } = this.options;
    const heard = holdings.asking();
    const { reply } = await peer.call(MASTER_METHODS.openSession, {
      sessionId: this.id,
      clientName,
      mark: this.mark,
      token: this.token,
      holds: holdings.areWanted,
    });
    const known = this.id !== 0;
    if (!reply.resumed) {
      this.token = Buffer.from(reply.token);
      this.operations.newSession();
      if (known) {
        logger.error({ session: this.id }, 'the session ended at the master; a new one begins');
        onSessionLost();
      }
    }
    // Also when it goes back: the master began from a backup.
    this.latestTime = reply.masterTime ?? NEVER;
    this.id = reply.sessionId;
    this.cluster = reply.clusterId;
    this.mark = reply.mark;
    if (reply.partedBelow > reply.partedFrom) this.parted.note(reply.partedFrom, reply.partedBelow);
    const isNewMaster = reply.epoch !== this.epoch;
    const isLossPossible = this.noteEpoch(known, reply.epoch, reply.lossEpoch, reply.partedBelow > 0);
    const stand = holdings.standing(reply.holdings, isNewMaster);
    if (stand === 'none stands' || !reply.resumed || isLossPossible) await this.options.onHoldingsEnded();
    // Until a new master was told of them it may go on without.
    if (stand !== 'to be told') heard();
    if (known) await this.reclaim(peer, stand === 'to be told');
    // Not before: the connection may break while they are told.
    holdings.knownAs(reply.holdings);
    heard();
  }

  /** Many answers say when they were given. */
  noteTime(reply: unknown): void {
    if (typeof reply !== 'object' || reply === null || !('masterTime' in reply)) return;
    const time = reply.masterTime as MasterTime | null;
    if (time !== null) this.latestTime = later(this.latestTime, time);
  }

  noteMark(mark: MasterMark | null): void {
    this.mark = mark;
  }

  /** ESTALE for a request that names an inode of a past that the master does not have. */
  refuseParted(request: unknown): void {
    this.parted.refuse(request);
  }

  /** A change was answered. */
  changed(): void {
    this.answeredChanges++;
  }

  /** A sync covers the first so many changes. */
  synced(changes: number): void {
    this.syncedChanges = Math.max(this.syncedChanges, changes);
  }

  /** Whether changes may be lost. */
  private noteEpoch(known: boolean, epoch: number, lossEpoch: number, isParted: boolean): boolean {
    const isLossPossible = known && (isParted || lossEpoch > this.epoch || epoch < this.epoch);
    this.epoch = epoch;
    if (!isLossPossible) return false;
    const changes = this.answeredChanges - this.syncedChanges;
    this.options.logger.error(
      { session: this.id, epoch, changes },
      isParted
        ? 'the master was put back to an older state: what was changed since is gone, synced or not; the next fsync tells'
        : 'the master lost power: what was changed last and not synced may be gone; the next fsync tells',
    );
    // What was synced is gone, too, if the master was put back.
    const kept = isParted ? 0 : this.syncedChanges;
    this.syncedChanges = this.answeredChanges;
    if (changes > 0 || isParted) this.lossCount++;
    this.options.onOperationsLost(kept);
    return true;
  }

  private async reclaim(peer: Peer, withHoldings: boolean): Promise<void> {
    // Copies: files may be closed while the pages go out. Opens first: a lock needs one.
    const opens = [...this.options.opens()].filter(({ inode }) => !this.parted.has(inode ?? 0));
    this.onReclaiming();
    const locks = [...this.options.locks()].filter(({ inode }) => !this.parted.has(inode ?? 0));
    for (let at = 0; at < opens.length; at += MAX_CHUNKS_PER_PAGE) {
      await peer.call(MASTER_METHODS.reclaim, { opens: opens.slice(at, at + MAX_CHUNKS_PER_PAGE) });
    }
    for (let at = 0; at < locks.length; at += MAX_CHUNKS_PER_PAGE) {
      await peer.call(MASTER_METHODS.reclaim, { locks: locks.slice(at, at + MAX_CHUNKS_PER_PAGE) });
    }
    const appends = this.options.appends().filter((inode) => !this.parted.has(inode));
    for (let at = 0; at < appends.length; at += MAX_CHUNKS_PER_PAGE) {
      await peer.call(MASTER_METHODS.reclaim, { appends: appends.slice(at, at + MAX_CHUNKS_PER_PAGE) });
    }
    if (withHoldings) await this.tellHoldings(peer);
    const { reply } = await peer.call(MASTER_METHODS.reclaim, { done: true });
    this.options.onReclaimed(reply.lostAppends);
  }

  /** Others change nothing before it is done, so what was held by the master before may stand. */
  private async tellHoldings(peer: Peer): Promise<void> {
    const { holdings, onHoldingsEnded } = this.options;
    const inodes = holdings.inodes();
    for (let at = 0; at < inodes.length; at += MAX_CHUNKS_PER_PAGE) {
      const page = inodes.slice(at, at + MAX_CHUNKS_PER_PAGE);
      const { reply } = await peer.call(MASTER_METHODS.reclaim, { holdings: page });
      await onHoldingsEnded(holdings.granted(page, reply.grants));
    }
  }
}
