/**
 * The names by which the kernel may find files without asking. An OPEN says only which inode it leads to, not by which name
 * the program came there, and what the kernel remembers of a name may be old: another mount replaced the file, or
 * removed it. So an open asks the master whether the names that led to the inode still do, in one step with the open, and
 * when one does not, it is ESTALE: the kernel looks the name up again and opens what it finds (second-look.ts).
 *
 * Kept for as long as the kernel believes a name, and a little more, as it begins to count when it takes the answer.
 */
import type { Clock } from '../../../core/clock.js';
import type { InodeId } from '../../../core/ids.js';
import { MAX_FORGOTTEN_NAMES, MAX_OPEN_NAMES, MAX_TOLD_NAMES } from '../../../core/limits.js';
import type { EntryName } from '../../../filesystem/filesystem.js';

const SLACK_MS = 2_000;

interface Told {
  readonly inode: InodeId;
  readonly parent: InodeId;
  /** As latin1, which is shorter than a Buffer. */
  readonly name: string;
  readonly untilMs: number;
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
  /** Until then the kernel may believe names that were forgotten here for want of room. */
  private incompleteUntilMs = -Infinity;

  constructor(
    private readonly clock: Clock,
    private readonly entryTimeoutMs: number,
  ) {}

  get size(): number {
    return this.known;
  }

  /** With those that count no more, and are not let go of yet. */
  get held(): number {
    return this.told.length;
  }

  /**
   * The kernel is about to be told that a name leads to a file. What it was told of the name before counts on: of two
   * answers on their way it may take the older one last.
   */
  tell(parent: InodeId, name: Buffer, inode: InodeId): void {
    const nowMs = this.clock.monotonicMs();
    const untilMs = nowMs + this.entryTimeoutMs + SLACK_MS;
    const told: Told = { inode, parent, name: name.toString('latin1'), untilMs, isKnown: true };
    const key = keyOf(told);
    const before = this.byName.get(key);
    if (before?.inode === inode) this.forget(before);
    this.told.push(told);
    this.known++;
    this.byName.set(key, told);
    const others = this.byInode.get(inode);
    if (others === undefined) this.byInode.set(inode, [told]);
    else others.push(told);
    this.expire(nowMs);
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
    if (moved !== undefined) this.tell(to.parent, to.name, moved.inode);
    if (exchange && replaced !== undefined) this.tell(from.parent, from.name, replaced.inode);
  }

  private forget(told: Told): void {
    told.isKnown = false;
    this.known--;
    const key = keyOf(told);
    if (this.byName.get(key) === told) this.byName.delete(key);
    const left = (this.byInode.get(told.inode) ?? []).filter((other) => other !== told);
    if (left.length > 0) this.byInode.set(told.inode, left);
    else this.byInode.delete(told.inode);
  }
}

const keyOf = ({ parent, name }: Pick<Told, 'parent' | 'name'>): string => `${parent}/${name}`;
