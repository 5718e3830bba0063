/**
 * The names by which the kernel may find files without asking. An OPEN says only which inode it leads to, not by which name
 * the program came there, and what the kernel remembers of a name may be old: another mount replaced the file, or
 * removed it. So an open asks the master whether the names that led to the inode still do, in one step with the open, and
 * when one does not, it is ESTALE: the kernel looks the name up again and opens what it finds (second-look.ts).
 *
 * Kept for as long as the kernel believes a name, and a little more, as it begins to count when it takes the answer. Names of other
 * inodes, and those that lead to nothing, are kept for as long only when the kernel may believe them at all: a name that is not here need
 * not be told to be old.
 */
import type { Clock } from '../../../core/clock.js';
import type { InodeId } from '../../../core/ids.js';
import { MAX_FORGOTTEN_NAMES, MAX_OPEN_NAMES, MAX_TOLD_NAMES } from '../../../core/limits.js';
import type { EntryName } from '../../../filesystem/filesystem.js';

const SLACK_MS = 2_000;

/** What the kernel was told of a name. */
export interface Told {
  /** None: that it leads to nothing. */
  readonly inode: InodeId | undefined;
  readonly isDirectory: boolean;
  readonly parent: InodeId;
  /** As latin1, which is shorter than a Buffer. */
  readonly name: string;
  readonly untilMs: number;
  /** Until then the kernel may believe that, or what it was told of the name before. */
  believedUntilMs: number;
  /** It still counts. */
  isKnown: boolean;
}

export class ToldNames {
  /**
   * In the order in which they expire, from `first` on, with some that count no more: to take the first of a Set again and
   * again would go over the holes of all that were taken before.
   */
  private told: Told[] = [];
  private first = 0;
  private known = 0;
  /** What was told of each name last. */
  private readonly byName = new Map<string, Told>();
  private readonly byInode = new Map<InodeId, Told[]>();
  private readonly byParent = new Map<InodeId, Set<Told>>();
  /** Until then the kernel may believe names that were forgotten here for want of room. */
  private incompleteUntilMs = -Infinity;

  constructor(private readonly clock: Clock) {}

  get size(): number {
    return this.known;
  }

  /** With those that count no more, and are not let go of yet. */
  get held(): number {
    return this.told.length;
  }

  /**
   * The kernel is about to be told what a name leads to, to believe it for `validMs`. What it was told of the name before counts on: of
   * two answers on their way it may take the older one last.
   */
  tell(parent: InodeId, name: Buffer, inode: InodeId | undefined, validMs: number, isDirectory = false): void {
    const nowMs = this.clock.monotonicMs();
    const untilMs = nowMs + validMs + SLACK_MS;
    const believedUntilMs = validMs > 0 ? untilMs : -Infinity;
    this.add({ inode, isDirectory, parent, name: name.toString('latin1'), untilMs, believedUntilMs, isKnown: true });
  }

  private add(told: Told): void {
    const { inode, parent } = told;
    const key = keyOf(told);
    const before = this.byName.get(key);
    if (before !== undefined) {
      told.believedUntilMs = Math.max(told.believedUntilMs, before.believedUntilMs);
      if (before.inode === inode) this.forget(before);
    }
    this.told.push(told);
    this.known++;
    this.byName.set(key, told);
    if (inode !== undefined) {
      const others = this.byInode.get(inode);
      if (others === undefined) this.byInode.set(inode, [told]);
      else others.push(told);
    }
    const siblings = this.byParent.get(parent);
    if (siblings === undefined) this.byParent.set(parent, new Set([told]));
    else siblings.add(told);
    this.expire(this.clock.monotonicMs());
  }

  private expire(nowMs: number): void {
    for (let oldest = this.told[this.first]; oldest !== undefined; oldest = this.told[++this.first]) {
      if (!oldest.isKnown) continue;
      if (oldest.untilMs > nowMs) {
        if (this.known <= MAX_TOLD_NAMES) break;
        this.incompleteUntilMs = Math.max(this.incompleteUntilMs, oldest.untilMs);
      }
      this.forget(oldest);
    }
    if (this.told.length <= 2 * this.known + MAX_FORGOTTEN_NAMES) return;
    this.told = this.told.filter(({ isKnown }) => isKnown);
    this.first = 0;
  }

  /** Every name that may lead the kernel to the file; undefined when that cannot be said. */
  namesOf(inode: InodeId): EntryName[] | undefined {
    const nowMs = this.clock.monotonicMs();
    const told = (this.byInode.get(inode) ?? []).filter(({ untilMs }) => untilMs > nowMs);
    if (told.length > MAX_OPEN_NAMES || (told.length === 0 && nowMs < this.incompleteUntilMs)) return undefined;
    return told.map(({ parent, name }) => ({ parent, name: Buffer.from(name, 'latin1') }));
  }

  /** What the kernel may believe of a name; `unknown` when that cannot be said. */
  believed(parent: InodeId, name: Buffer): Told | 'unknown' | undefined {
    const nowMs = this.clock.monotonicMs();
    const told = this.byName.get(keyOf({ parent, name: name.toString('latin1') }));
    if (told !== undefined && told.believedUntilMs > nowMs) return told;
    return nowMs < this.incompleteUntilMs ? 'unknown' : undefined;
  }

  /** All that the kernel may believe of names in a directory, and until when it may believe others. */
  believedIn(parent: InodeId): { readonly told: readonly Told[]; readonly othersUntilMs: number } {
    const nowMs = this.clock.monotonicMs();
    const told = [...(this.byParent.get(parent) ?? [])].filter((each) => each.believedUntilMs > nowMs);
    return { told, othersUntilMs: this.incompleteUntilMs };
  }

  /** The kernel believes it no more; what it was told of the name since counts. */
  expired(told: Told): void {
    told.believedUntilMs = -Infinity;
  }

  /** The kernel itself knows that the name is gone. */
  removed(parent: InodeId, name: Buffer): void {
    const told = this.byName.get(keyOf({ parent, name: name.toString('latin1') }));
    if (told !== undefined) this.forget(told);
  }

  /** The kernel itself moves what it remembers. */
  renamed(from: EntryName, to: EntryName, exchange: boolean): void {
    const [moved, replaced] = [from, to].map(({ parent, name }) =>
      this.byName.get(keyOf({ parent, name: name.toString('latin1') })),
    );
    if (moved !== undefined) this.forget(moved);
    if (replaced !== undefined) this.forget(replaced);
    if (moved !== undefined) this.move(moved, to);
    if (exchange && replaced !== undefined) this.move(replaced, from);
  }

  /** It is believed for as long as by its old name. */
  private move(told: Told, { parent, name }: EntryName): void {
    this.add({ ...told, parent, name: name.toString('latin1'), isKnown: true });
  }

  private forget(told: Told): void {
    told.isKnown = false;
    this.known--;
    const key = keyOf(told);
    if (this.byName.get(key) === told) this.byName.delete(key);
    const siblings = this.byParent.get(told.parent);
    siblings?.delete(told);
    if (siblings?.size === 0) this.byParent.delete(told.parent);
    if (told.inode === undefined) return;
    const left = (this.byInode.get(told.inode) ?? []).filter((other) => other !== told);
    if (left.length > 0) this.byInode.set(told.inode, left);
    else this.byInode.delete(told.inode);
  }
}

const keyOf = ({ parent, name }: Pick<Told, 'parent' | 'name'>): string => `${parent}/${name}`;
