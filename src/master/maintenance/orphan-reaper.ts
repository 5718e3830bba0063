/**
 * What is left behind when nobody uses it any more: inodes without a name (reaped when no session has them open), and
 * bytes that a dead writer put behind the published size (cut, P5). Both wait until the sessions of before a restart
 * have told what they hold.
 */
import { asCairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { InodeId } from '../../core/ids.js';
import { MAX_CHUNKS_PER_RECORD, ORPHAN_SLICE } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { isRegular } from '../../core/mode.js';
import { removeChunks, truncateChunkMap } from '../tables/chunk-map.js';
import { forgetBehind } from '../tables/left-behind.js';
import { readInode, removeInode, saveInode } from '../tables/inodes.js';
import { keys, prefixRange, unpackNumber } from '../state/keys.js';
import type { LeaseCuts } from '../chunks/lease-cuts.js';
import type { Recalls } from '../sessions/recalls.js';
import type { Sessions } from '../sessions/sessions.js';
import type { Mutation, State } from '../state/state.js';

export class OrphanReaper {
  private cursor = 0;
  /** Something may have become an orphan, or unused, since the last round began. */
  private pending = true;
  private readonly tails = new Set<InodeId>();
  private readonly cutting = new Set<InodeId>();

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly logger: Logger;
      readonly sessions: () => Sessions;
      readonly cuts: LeaseCuts;
      readonly recalls: () => Pick<Recalls, 'mutate'>;
      /** The inode is gone for good. */
      readonly onGone: (inode: InodeId) => void;
    },
  ) {}

  /** There may be something to reap. */
  kick(): void {
    this.pending = true;
  }

  /** A writer of `inode` died and nobody else writes it. */
  cutTail(inode: InodeId): void {
    this.tails.add(inode);
  }

  isToCut(inode: InodeId): boolean {
    return this.tails.has(inode) || this.cutting.has(inode);
  }

  /** One bounded step. Returns true when more is to be done at once. */
  tick(): boolean {
    if (!this.deps.sessions().isGraceOver) return false;
    this.cutTails();
    // What becomes unused behind the cursor is for the next round.
    if (this.cursor === 0) {
      if (!this.pending) return false;
      this.pending = false;
    }
    const orphans: InodeId[] = [];
    let seen = 0;
    let isAwaited = false;
    for (const [key, reply] of this.deps.state.range({
      start: keys.orphan(inodeId(this.cursor + 1)),
      end: ORPHANS_END,
    })) {
      if (seen === ORPHAN_SLICE) break;
      seen++;
      const inode = inodeId(unpackNumber(key, 1));
      this.cursor = inode;
      if (this.deps.sessions().isOpen(inode)) continue;
      // A client that has come back, and has told what it has open, has yet to ask again for the answer that named this one.
      if (this.isReplyKept(reply)) isAwaited = true;
      else orphans.push(inode);
    }
    let complete = false;
    try {
      complete = orphans.length === 0 || this.deps.state.mutate((m) => this.reap(m, orphans));
      for (const inode of orphans) if (readInode(this.deps.state, inode) === undefined) this.deps.onGone(inode);
    } finally {
      // Also when there was no space for it.
      if (!complete) {
        this.pending = true;
        this.cursor = 0;
      }
    }
    if (seen < ORPHAN_SLICE) this.cursor = 0;
    if (isAwaited) this.pending = true;
    return this.cursor > 0 || !complete;
  }

  private isReplyKept(key: Uint8Array): boolean {
    return key.length > 0 && this.deps.state.get(Buffer.from(key).toString('latin1')) !== undefined;
  }

  /** Returns false when the bound of one record was reached before all was done. */
  private reap(m: Mutation, orphans: readonly InodeId[]): boolean {
    let room = MAX_CHUNKS_PER_RECORD;
    for (const inode of orphans) {
      const record = readInode(m, inode);
      if (record === undefined || record.nlink > 0) {
        m.delete(keys.orphan(inode));
        continue;
      }
      // Gone as a whole, whatever is left of its chunks: a client that comes back with it open must not find half of it.
      const dropped = removeChunks(m, inode, record, room);
      forgetBehind(m, inode);
      room -= dropped + removeInode(m, inode);
      if (room <= 0) return false;
    }
    return true;
  }

  private cutTails(): void {
    const { logger } = this.deps;
    for (const inode of [...this.tails].slice(0, ORPHAN_SLICE)) {
      if (this.cutting.has(inode)) continue;
      this.cutting.add(inode);
      this.cutOne(inode)
        .catch((error: unknown) => {
          this.tails.add(inode);
          logger.info({ inode, error: asCairnError(error).message }, 'what a dead writer left behind is not cut yet');
        })
        .finally(() => this.cutting.delete(inode));
    }
  }

  /**
   * Not while a lease stands: who opens the file now could write by it, and the cut, which is on its way to the primary
   * then, would take away what he wrote.
   */
  private async cutOne(inode: InodeId): Promise<void> {
    const { cuts, logger } = this.deps;
    const sessions = this.deps.sessions();
    this.tails.delete(inode);
    if (!sessions.isWritten(inode)) await cuts.endLeases(inode);
    // Looked at again when others had to be recalled, who hold the file.
    const outcome = await this.deps.recalls().mutate((m) => {
      const record = readInode(m, inode);
      if (record === undefined || !isRegular(record.mode) || record.nlink === 0) return 'gone';
      if (sessions.isWritten(inode)) return 'written';
      if (cuts.isLeased(inode)) return 'leased';
      truncateChunkMap(m, inode, record, record.size);
      saveInode(m, inode, record);
      forgetBehind(m, inode);
      return 'cut';
    });
    if (outcome === 'written') sessions.noteTail(inode);
    else if (outcome === 'leased') this.tails.add(inode);
    else if (outcome === 'cut') logger.info({ inode }, 'cut what a dead writer left behind the published size');
  }
}

const ORPHANS_END = prefixRange('U').end;
