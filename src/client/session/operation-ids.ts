/**
 * The places of this client's mutations in its session, so that a repeat gets the first answer (P6). When the session itself is
 * lost, a mutation that may have taken effect gets no place in the next one, unless doing it twice is the same as once.
 */
import { CairnError } from '../../core/errors.js';
import type { OperationIdInit } from '../../protocol/generated/messages.js';

/** A mutation's place among those of its session. */
export interface Place {
  sequence: number;
  session: number;
  /** An attempt was sent, and no answer came: it may have taken effect. */
  inDoubt: boolean;
  readonly idempotent: boolean;
  /** When it was asked for; undefined when that does not matter. */
  readonly lockLosses: number | undefined;
}

export class OperationIds {
  private sessions = 0;
  private nextSequence = 1;
  /** Sequences without a reply, in ascending order. */
  private readonly outstanding = new Set<number>();

  /** `lockLosses`: times that locks were lost with a session. */
  constructor(private readonly lockLosses: () => number) {}

  /** Counts sessions; sequence numbers belong to one. */
  get session(): number {
    return this.sessions;
  }

  newSession(): void {
    this.sessions++;
    this.nextSequence = 1;
    this.outstanding.clear();
  }

  begin({ idempotent = false, needsNoLock = false }: { idempotent?: boolean; needsNoLock?: boolean }): Place {
    const lockLosses = needsNoLock ? undefined : this.lockLosses();
    return { sequence: 0, session: -1, inDoubt: false, idempotent, lockLosses };
  }

  /** For an attempt in `session`. EIO when what is asked for must not be done in that. */
  idIn(session: number, place: Place): OperationIdInit {
    if (place.session !== session) {
      if (place.inDoubt && !place.idempotent) {
        throw new CairnError(
          'EIO',
          'the session with the master ended during a change: whether it took effect is unknown',
        );
      }
      if (place.lockLosses !== undefined && place.lockLosses !== this.lockLosses()) {
        throw new CairnError('EIO', 'locks were lost with the session during a change: it is not made');
      }
      place.session = session;
      place.sequence = this.nextSequence++;
      this.outstanding.add(place.sequence);
    }
    return { sequence: place.sequence, ackedBelow: this.ackedBelow() };
  }

  /** An attempt was sent, and no answer came. */
  unanswered(place: Place): void {
    place.inDoubt = true;
  }

  ended(place: Place): void {
    if (place.session === this.sessions) this.outstanding.delete(place.sequence);
  }

  /** The master need not keep its answers to those below. */
  ackedBelow(): number {
    for (const lowest of this.outstanding) return lowest;
    return this.nextSequence;
  }
}
