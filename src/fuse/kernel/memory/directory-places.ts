/**
 * Where the kernel remembers directories, which it does at one place each. When a look-up finds one elsewhere (another
 * machine has moved it) the kernel moves what it remembers there; but not while a rename from one directory to another is
 * on its way, which may be the very one that looks it up: then the look-up fails (ESTALE), is tried once more, and fails
 * again. So a directory that is looked up at a new place twice, by one thread, is given an alias the second time: a nodeid
 * that the kernel has never seen, of the same directory. It holds for nothing but the call that asked for it: the
 * next look-up brings back the one true nodeid, and the kernel then moves what it remembers.
 *
 * An alias that was not needed does no harm, for the same reason.
 */
import type { Clock } from '../../../core/clock.js';
import { MAX_PATH_BYTES, MAX_SECOND_LOOKS } from '../../../core/limits.js';

/** The kernel's second try comes at once, unless the machine is busy. */
const SECOND_TRY_MS = 250;
/** Directories above one another in a path, at most. */
const MAX_DEPTH = MAX_PATH_BYTES / 2;

interface Place {
  readonly parent: number;
  readonly key: number;
  /** A listing told the new place: nothing says whether the kernel took it. This is the place before. */
  readonly before?: Place;
}

/** A thread's last look-up of a directory at a new place. */
interface Look {
  readonly nodeid: number;
  readonly place: Place;
  readonly before: Place;
  readonly endsMs: number;
  /** It was the second, so the thread is in a rename, and is told aliases of others too. */
  readonly wasSecond: boolean;
}

export class DirectoryPlaces {
  private readonly places = new Map<number, Place>();
  private readonly byKey = new Map<number, number>();
  /** By thread. Bounded by MAX_SECOND_LOOKS. */
  private readonly looks = new Map<number, Look>();

  constructor(private readonly clock: Clock) {}

  /** A thread looked the directory up. True: it is to be told an alias. */
  found(thread: number, nodeid: number, parent: number, name: Buffer): boolean {
    const place: Place = { parent, key: keyOf(parent, name) };
    const look = this.lookOf(thread);
    const known = this.places.get(nodeid);
    if (look?.nodeid === nodeid && look.place.key === place.key && !look.wasSecond) {
      // The kernel did not take it there.
      this.put(nodeid, look.before);
      this.note(thread, { ...look, wasSecond: true });
      return true;
    }
    const before = known?.before ?? known;
    if (known === undefined || before === undefined || before.key === place.key) {
      this.put(nodeid, place);
      return false;
    }
    const inRename = look?.wasSecond === true && look.nodeid !== nodeid;
    if (inRename || this.isBelow(parent, nodeid)) return true;
    const endsMs = this.clock.monotonicMs() + SECOND_TRY_MS;
    this.note(thread, { nodeid, place, before, endsMs, wasSecond: false });
    this.put(nodeid, place);
    return false;
  }

  /** The thread goes on with the directory: the kernel has taken it to where it was found. */
  used(thread: number, nodeid: number): void {
    if (this.looks.size > 0 && this.looks.get(thread)?.nodeid === nodeid) this.looks.delete(thread);
  }

  /** The kernel gives an answer back: it asked whether a name still led to another inode, and will look it up now. */
  unwanted(nodeid: number): void {
    for (const [thread, look] of this.looks) {
      if (look.nodeid !== nodeid || look.wasSecond) continue;
      this.looks.delete(thread);
      this.put(nodeid, look.before);
    }
  }

  /** The kernel was told of the directory in a listing. */
  listed(nodeid: number, parent: number, name: Buffer): void {
    const place: Place = { parent, key: keyOf(parent, name) };
    const known = this.places.get(nodeid);
    if (known?.key === place.key) return;
    const before = known?.before ?? known;
    this.put(nodeid, before === undefined || before.key === place.key ? place : { ...place, before });
  }

  /** It is there for certain: it was made there, or the kernel has nothing else that it could be mistaken for. */
  standsAt(nodeid: number, parent: number, name: Buffer): void {
    this.put(nodeid, { parent, key: keyOf(parent, name) });
  }

  /** The kernel has made a rename of this machine in what it remembers. Returns the directories that stood at both places. */
  renamed(from: PlaceName, to: PlaceName, exchange: boolean): number[] {
    const [fromKey, toKey] = [keyOf(from.parent, from.name), keyOf(to.parent, to.name)];
    const [moved, other] = [this.byKey.get(fromKey), this.byKey.get(toKey)];
    if (moved !== undefined) this.put(moved, { parent: to.parent, key: toKey });
    if (exchange && other !== undefined) this.put(other, { parent: from.parent, key: fromKey });
    return [moved, other].filter((nodeid) => nodeid !== undefined);
  }

  forget(nodeid: number): void {
    const place = this.places.get(nodeid);
    if (place === undefined) return;
    this.places.delete(nodeid);
    if (this.byKey.get(place.key) === nodeid) this.byKey.delete(place.key);
  }

  private put(nodeid: number, place: Place): void {
    const old = this.places.get(nodeid);
    if (old !== undefined && old.key !== place.key && this.byKey.get(old.key) === nodeid) this.byKey.delete(old.key);
    this.places.set(nodeid, place);
    this.byKey.set(place.key, nodeid);
  }

  /** Whether the kernel remembers directory `nodeid` as one of those above `below`, or as itself (ELOOP, without a second try). */
  private isBelow(below: number, nodeid: number): boolean {
    let at: number | undefined = below;
    for (let depth = 0; at !== undefined && depth < MAX_DEPTH; depth++) {
      if (at === nodeid) return true;
      at = this.places.get(at)?.parent;
    }
    return false;
  }

  private lookOf(thread: number): Look | undefined {
    const look = this.looks.get(thread);
    if (look === undefined || this.clock.monotonicMs() < look.endsMs) return look;
    this.looks.delete(thread);
    return undefined;
  }

  private note(thread: number, look: Look): void {
    this.looks.delete(thread);
    for (const oldest of this.looks.keys()) {
      if (this.looks.size < MAX_SECOND_LOOKS) break;
      this.looks.delete(oldest);
    }
    this.looks.set(thread, look);
  }
}

export interface PlaceName {
  /** A nodeid. */
  readonly parent: number;
  readonly name: Buffer;
}

/** Of 53 bits, in place of the name. Two that are taken for one cost what all would cost without aliases. */
function keyOf(parent: number, name: Buffer): number {
  let low = Math.imul(parent | 0, 0x85ebca6b) ^ Math.floor(parent / 2 ** 32);
  let high = Math.imul(low, 0xc2b2ae35) ^ parent;
  for (const byte of name) {
    low = Math.imul(low ^ byte, 0x01000193);
    high = Math.imul(high ^ byte, 0x27d4eb2f);
    high ^= high >>> 15;
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0);
}
