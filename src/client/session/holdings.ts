/**
 * What this client holds at the master (docs/coherence.md): inodes of which others change nothing before they have recalled it
 * here. What was told under a holding may be believed for as long as the holding stands, and the session is valid: the master
 * gives a client up that it did not hear of, so this one stops to believe a while before, also when the machine was suspended.
 *
 * A grant comes with the first answer that says so. Answers overtake recalls and the other way round, so answers to what was
 * asked before a holding ended do not bring it back: for that, time is counted in `moments`.
 */
import type { Clock } from '../../core/clock.js';
import { wallMs } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import { HOLDING_VALID_MS, MAX_HELD_INODES, MAX_RELEASED } from '../../core/limits.js';
import { LruMap } from '../../core/lru.js';
import type { HoldingInit } from '../../protocol/generated/messages.js';

/** A point in the order of what this client asked and what it was made to forget. */
export type Moment = number;

export class Moments {
  private last: Moment = 0;

  /** To be noted before something is asked. */
  now(): Moment {
    return this.last;
  }

  /** Something is forgotten: answers to what was asked before are old. */
  next(): Moment {
    return ++this.last;
  }
}

export interface Holding {
  readonly inode: InodeId;
  grant: number;
  /** It did not end. */
  stands: boolean;
}

/** What a client holds: nothing, or what any number of clients may know at a time. */
export const LEASES = ['none', 'shared'] as const;
export type Leases = (typeof LEASES)[number];
/** What a client does that was not told. */
export const DEFAULT_LEASES: Leases = 'none';

interface Retired {
  readonly inode: InodeId;
  grant: number;
  /** Until then a kernel may believe what was told under it. */
  readonly untilMs: number;
}

export class Holdings {
  private readonly held: LruMap<InodeId, Holding>;
  /** When those that ended did. */
  private readonly ends: LruMap<InodeId, Moment>;
  /** All ended, or those that are forgotten in `ends` did. */
  private endsFloor: Moment = 0;
  /** To be given back. */
  private readonly retired = new Map<InodeId, Retired>();
  private validUntilMs = -Infinity;
  private validUntilWallMs = -Infinity;
  /** Which set of them the master knows. */
  private set = 0;

  constructor(
    private readonly clock: Clock,
    private readonly moments: Moments,
    /** Whether any are asked for. */
    readonly areWanted: boolean,
    maxHeld = MAX_HELD_INODES,
  ) {
    this.held = new LruMap<InodeId, Holding>(maxHeld, (holding) => this.retire(holding));
    this.ends = new LruMap<InodeId, Moment>(maxHeld, (moment) => {
      this.endsFloor = Math.max(this.endsFloor, moment);
    });
  }

  get size(): number {
    return this.held.size;
  }

  // ---- What stands ------------------------------------------------------------------------------

  /** Milliseconds for which what is held may be believed; 0: not now. */
  get validMs(): number {
    const leftMs = this.validUntilMs - this.clock.monotonicMs();
    if (leftMs <= 0) return 0;
    return Math.max(0, Math.min(leftMs, this.validUntilWallMs - wallMs(this.clock.now())));
  }

  /** Whether what was told under it may be believed now. */
  isGood(holding: Holding): boolean {
    if (!holding.stands || this.validMs === 0) return false;
    this.held.get(holding.inode); // it was used
    return true;
  }

  /** To be called before a heartbeat is sent: gives what to call when it is answered. */
  asking(): () => void {
    const untilMs = this.clock.monotonicMs() + HOLDING_VALID_MS;
    const untilWallMs = wallMs(this.clock.now()) + HOLDING_VALID_MS;
    return () => {
      this.validUntilMs = Math.max(this.validUntilMs, untilMs);
      // Not the later of both: after the clock was set back, the one before would be far ahead.
      this.validUntilWallMs = untilWallMs;
    };
  }

  // ---- Coming and going -------------------------------------------------------------------------

  /** An answer to what was asked at `asked` came under this grant. Undefined: it is not to be believed longer than now. */
  take(inode: InodeId, grant: number, asked: Moment): Holding | undefined {
    if (grant === 0 || !this.areWanted) return undefined;
    const known = this.held.get(inode);
    if (known !== undefined) return known.grant === grant ? known : undefined;
    if (asked < Math.max(this.endsFloor, this.ends.peek(inode) ?? 0)) return undefined;
    const holding: Holding = { inode, grant, stands: true };
    this.retired.delete(inode);
    this.held.set(inode, holding);
    return holding;
  }

  /** It was recalled, whole. */
  end(inode: InodeId): void {
    const holding = this.held.peek(inode);
    if (holding !== undefined) holding.stands = false;
    this.held.delete(inode);
    this.retired.delete(inode);
    this.ends.set(inode, this.moments.next());
  }

  /** None stands any more. Returns those that did. */
  endAll(): InodeId[] {
    const ended = [...this.held.values()].map((holding) => {
      holding.stands = false;
      return holding.inode;
    });
    ended.push(...this.retired.keys());
    this.held.clear();
    this.retired.clear();
    this.ends.clear();
    this.endsFloor = this.moments.next();
    return ended;
  }

  private retire(holding: Holding): void {
    holding.stands = false;
    const { inode, grant } = holding;
    this.retired.set(inode, { inode, grant, untilMs: this.clock.monotonicMs() + HOLDING_VALID_MS });
  }

  /** Those that were given up, and that no kernel believes anything of any more, for the master. */
  takeReleased(): HoldingInit[] {
    const nowMs = this.clock.monotonicMs();
    const released: HoldingInit[] = [];
    for (const { inode, grant, untilMs } of this.retired.values()) {
      if (untilMs > nowMs || released.length === MAX_RELEASED) break;
      this.retired.delete(inode);
      // An answer that is on its way was given before the master hears of it.
      this.ends.set(inode, this.moments.next());
      released.push({ inode, grant });
    }
    return released;
  }

  // ---- A new connection -------------------------------------------------------------------------

  /**
   * The session goes on, and the master has this set of its holdings: another than before if it gave this client up, or began anew
   * (`isNewMaster`): then nothing was changed there since they stood. Until `knownAs` it does not know of them.
   */
  standing(set: number, isNewMaster: boolean): 'all stand' | 'to be told' | 'none stands' {
    if (this.size + this.retired.size === 0 || (this.set === set && !isNewMaster)) return 'all stand';
    return isNewMaster ? 'to be told' : 'none stands';
  }

  /** The master was told of all of them, or none stands. */
  knownAs(set: number): void {
    this.set = set;
  }

  /** All that the master may hold others up for. */
  inodes(): InodeId[] {
    return [...[...this.held.entries()].map(([inode]) => inode), ...this.retired.keys()];
  }

  /** The master was told of these, and granted them anew, or not (0). Returns those that ended by it. */
  granted(inodes: readonly InodeId[], grants: readonly number[]): InodeId[] {
    return inodes.filter((inode, at) => {
      const grant = grants[at] ?? 0;
      const holding = this.held.peek(inode) ?? this.retired.get(inode);
      if (holding === undefined) return false;
      if (grant === 0) this.end(inode);
      else holding.grant = grant;
      return grant === 0;
    });
  }
}
