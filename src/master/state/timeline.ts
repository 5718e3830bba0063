/**
 * Tells when this master's state is not the newest that its cluster has seen: it was restored from a backup, or its directory
 * was put back to an older one. Such a master would give handles, leases and inode numbers that were given already, and
 * take the chunks that it does not know for garbage.
 *
 * Every epoch begins with a random number (its incarnation), and the state remembers where each began. Chunkservers and clients
 * keep a mark: the epoch, incarnation and flushed sequence that they heard of last; chunkservers also the highest handle and
 * lease id that they were given. They show it before anything else. A mark that is not in this state's past, or that is
 * ahead of it, proves that the two have parted. Then, before anything more is given out, durably:
 *
 *   - the epoch passes every one that was heard of, and counts as one that began after a loss of operations: clients forget
 *     what they cached, and their next fsync tells;
 *   - all counters, and the versions of chunks from here on, jump far past what anybody may have been given.
 *
 * No handle or lease is given out before a chunkserver is there to take it, and it has shown its mark then. Inodes wait for the
 * first chunkserver too, for a short time (`witnessed`). Who comes later with a mark of the other past finds the jump made; its
 * replicas are kept aside rather than deleted (reports.ts), and inodes that it knows are refused (client/session/parted-inodes.ts).
 */
import type { Clock, Timer } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { COUNTER_JUMP, INODE_JUMP, MAX_EPOCHS_REMEMBERED, VERSION_JUMP, WITNESS_WAIT_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { deferred } from '../../core/sync.js';
import { EpochHistory } from '../../protocol/generated/messages.js';
import type { EpochBeginning, MasterMark } from '../../protocol/generated/messages.js';
import { readCounter } from './counters.js';
import type { IdReserve } from './id-reserve.js';
import { readReserved } from './id-reserve.js';
import { keys, packed } from './keys.js';
import { FIRST_INODE } from './epochs.js';
import type { LogState } from './log-state.js';
import type { Mutation } from './state.js';

export interface TimelineDeps {
  readonly state: LogState;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly handles: IdReserve;
  readonly leaseIds: IdReserve;
  /** Chunkservers are known, of which one should come soon. */
  readonly expectsServers: boolean;
  /** All counters have jumped. */
  readonly onBranch: () => void;
}

/** Inodes that somebody of another past must not take for those of this state. */
export interface PartedInodes {
  readonly from: number;
  readonly below: number;
  /** A chunk that was leased last below this was not written since the two parted. */
  readonly firstLease: number;
}

export class Timeline {
  private beginnings: readonly EpochBeginning[];
  private readonly witness = deferred<void>();
  private readonly timer: Timer | undefined;
  private isWitnessed: boolean;

  /** Notes the beginning of the state's epoch; to be made durable before anything is served. */
  constructor(private readonly deps: TimelineDeps) {
    const { state, clock } = deps;
    const stored = state.get(keys.meta('epochs'));
    this.beginnings = stored === undefined ? [] : EpochHistory.decode(stored).beginnings;
    this.beginnings = state.mutate((m) => this.begin(m, state.epoch, state.startSequence, false));
    this.isWitnessed = !deps.expectsServers;
    if (!this.isWitnessed) this.timer = clock.setTimer(WITNESS_WAIT_MS, () => this.noteWitness());
  }

  stop(): void {
    this.timer?.cancel();
  }

  /** What a process that heard of this master now shows to the next. */
  get mark(): MasterMark {
    const { state } = this.deps;
    const incarnation = this.beginnings.at(-1)?.incarnation ?? 0;
    return { epoch: state.epoch, incarnation, sequence: state.flushedSequence, handle: 0, leaseId: 0 };
  }

  /** Inode numbers may be given out: a chunkserver has shown its mark, or none comes. */
  witnessed(): Promise<void> | undefined {
    return this.isWitnessed ? undefined : this.witness.promise;
  }

  /** A chunkserver is registered, so its mark is known. */
  noteWitness(): void {
    if (this.isWitnessed) return;
    this.isWitnessed = true;
    this.timer?.cancel();
    this.witness.resolve();
  }

  /**
   * Takes the mark of `who`, before anything is given to it. Returns the inodes that it must not trust in when it followed a
   * master that this one does not continue; undefined when all is in order.
   */
  async take(mark: MasterMark | null, who: string): Promise<PartedInodes | undefined> {
    if (mark === null) return undefined;
    const { state } = this.deps;
    const isAhead =
      mark.handle >= readReserved(state, 'next-handle') || mark.leaseId >= readReserved(state, 'next-lease');
    const known = this.partedAt(mark);
    const parted = known ?? (isAhead ? this.beginnings.at(-1) : undefined);
    if (parted === undefined) return undefined;
    // Some time after the epoch that it heard of last, when that is all that is known.
    const since = known ?? this.beginnings.find(({ epoch }) => epoch >= mark.epoch) ?? parted;
    const hasJumped = this.beginnings.some(({ branch, epoch }) => branch && epoch >= parted.epoch);
    if (!hasJumped || isAhead || mark.epoch >= state.epoch) this.branch(mark, who);
    await state.durable();
    const jumpedTo = this.beginnings.findLast(({ branch }) => branch)?.firstInode ?? parted.firstInode;
    return { from: parted.firstInode, below: jumpedTo, firstLease: since.firstLease };
  }

  /** The first epoch of this state that does not continue what `mark` tells of; undefined when all of them do. */
  private partedAt(mark: MasterMark): EpochBeginning | undefined {
    const { beginnings } = this;
    if (mark.epoch === 0) return undefined;
    const at = beginnings.findIndex(({ epoch }) => epoch >= mark.epoch);
    const first = beginnings[at];
    // An epoch that this state never had, above all it has.
    if (first === undefined) return beginnings.at(-1);
    if (first.epoch === mark.epoch && first.incarnation === mark.incarnation) {
      const next = beginnings[at + 1];
      return next !== undefined && mark.sequence > next.sequence ? next : undefined;
    }
    // Older than what is remembered.
    if (at === 0 && first.epoch > mark.epoch) return mark.sequence > first.sequence ? first : undefined;
    // A branch is made some time after the older state was taken up.
    return first.branch ? (beginnings[at - 1] ?? first) : first;
  }

  private branch(mark: MasterMark, who: string): void {
    const { state, logger, handles, leaseIds } = this.deps;
    const before = { epoch: state.epoch, sequence: state.lastSequence };
    const epoch = Math.max(state.epoch, mark.epoch) + 1;
    // Counts when it is written: a full disk may refuse it, and then the mark is shown again.
    let { beginnings } = this;
    state.skipToEpoch(epoch, (m) => {
      const inode = jumpedInEpoch(epoch, readCounter(m, 'next-inode', FIRST_INODE), INODE_JUMP);
      m.put(keys.meta('next-inode'), packed(inode));
      beginnings = this.begin(m, epoch, before.sequence, true);
      handles.jumpTo(m, jumped(Math.max(readReserved(m, 'next-handle'), mark.handle), COUNTER_JUMP));
      leaseIds.jumpTo(m, jumped(Math.max(readReserved(m, 'next-lease'), mark.leaseId), COUNTER_JUMP));
      m.put(keys.meta('lease-floor'), packed(readReserved(m, 'next-lease')));
      m.put(keys.meta('strangers'), packed(epoch));
      m.put(keys.meta('version-floor'), packed(jumpedInEpoch(epoch, readCounter(m, 'version-floor', 0), VERSION_JUMP)));
    });
    this.beginnings = beginnings;
    logger.error(
      { ...before, seenBy: who, seenEpoch: mark.epoch, seenSequence: mark.sequence, newEpoch: epoch },
      "the master's state is older than what the cluster has seen: it was restored from a backup, or its directory was put " +
        'back. What was changed since is missing; chunks that are not known here are kept aside for some days. If newer ' +
        "metadata exists, stop the master and put its directory back; otherwise go on: 'cairn status' tells what is missing",
    );
    this.deps.onBranch();
  }

  /** The beginnings with one more. */
  private begin(m: Mutation, epoch: number, sequence: number, branch: boolean): readonly EpochBeginning[] {
    const incarnation = Number(this.deps.random.bytes(6).readUIntBE(0, 6));
    const firstInode = readCounter(m, 'next-inode', FIRST_INODE);
    const firstLease = readReserved(m, 'next-lease');
    const beginning = { epoch, incarnation, sequence, firstInode, branch, firstLease };
    const beginnings = [...this.beginnings, beginning].slice(-MAX_EPOCHS_REMEMBERED);
    m.put(keys.meta('epochs'), EpochHistory.encode({ beginnings }).finish());
    return beginnings;
  }
}

/**
 * Marks do not tell of these counters. Another state that was put back to this one, and jumped, may be what was heard of: its epoch
 * is lower, and so is what it jumped to.
 */
const jumpedInEpoch = (epoch: number, from: number, by: number): number => jumped(Math.max(from, (epoch - 1) * by), by);

function jumped(from: number, by: number): number {
  const to = from + by;
  if (!Number.isSafeInteger(to)) throw new CairnError('INTERNAL', 'the numbers of this cluster are used up');
  return to;
}
