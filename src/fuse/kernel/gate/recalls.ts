/**
 * What others are about to change, and the kernel must not believe when they do (`Beliefs` of the file system). Attributes it drops at
 * once, pages before the change goes on; of a name it is made to ask at the gate of the directory, at once, and lets go of the name
 * afterwards, as it may have to wait for requests that hold the directory.
 */
import { sleep } from '../../../core/clock.js';
import type { Clock } from '../../../core/clock.js';
import type { InodeId } from '../../../core/ids.js';
import { MAX_EXPIRED_NAMES, UNTAKEN_MS } from '../../../core/limits.js';
import { watched } from '../../../core/sync.js';
import type { Recalled } from '../../../filesystem/filesystem.js';
import type { NodeTable } from '../memory/node-table.js';
import type { Notifier } from '../memory/notifier.js';
import type { Told, ToldNames } from '../memory/told-names.js';
import type { ChangingContents } from './changing-contents.js';
import type { Gates } from './gates.js';
import type { LateAnswers } from './late-answers.js';

/** Between two tries to make the kernel drop attributes that it is about to learn: at first, and at most. */
const FIRST_TRY_MS = 0.2;
const LONGEST_TRY_MS = 10;
/** Attributes that are dropped in one turn. */
const DROPS_IN_A_TURN = 512;

export interface RecallsOptions {
  readonly clock: Clock;
  readonly nodes: NodeTable;
  readonly toldNames: ToldNames;
  readonly notifier: Notifier;
  readonly gates: Gates;
  readonly lateAnswers: LateAnswers;
  readonly contents: ChangingContents;
  /** Files that programs have open. */
  readonly openFiles: () => Iterable<InodeId>;
  /** The kernel can ask about a name again without forgetting it. */
  readonly canExpire: () => boolean;
  readonly inBackground: (what: string, work: () => Promise<void>) => void;
}

/** A name that the kernel may believe. */
interface Believed {
  readonly name: Buffer;
  readonly told: Told | undefined;
}

export class Recalls {
  constructor(private readonly options: RecallsOptions) {}

  /** As RecallListener. */
  recall(recalled: readonly Recalled[]): Promise<void> | undefined {
    const waits: Promise<void>[] = [];
    for (const each of recalled) {
      if (each.whole) this.endNamesOf(each.inode);
      else this.endNames(each.inode, each.names);
    }
    for (const { inode, whole, attributes, contents } of recalled) {
      const files = whole ? this.filesOf(inode) : [];
      this.endAttributes(whole ? [inode, ...attributes, ...files] : attributes, waits);
      // Whose file an open one is cannot be said: it may have been moved since.
      const changed = whole ? new Set([...contents, ...this.options.openFiles()]) : contents;
      for (const each of changed) waits.push(watched(this.options.contents.recall(each)));
    }
    return waits.length === 0 ? undefined : Promise.all(waits).then(() => undefined);
  }

  /** The kernel is not to believe what it knows of names in a directory, from now on. */
  endNames(directory: InodeId, names: readonly Buffer[]): void {
    const believed: Believed[] = [];
    for (const name of names) {
      const told = this.options.toldNames.believed(directory, name);
      if (told !== undefined) believed.push({ name, told: told === 'unknown' ? undefined : told });
    }
    this.closeFor(directory, believed, 0);
  }

  private endNamesOf(directory: InodeId): void {
    const { told, othersUntilMs } = this.options.toldNames.believedIn(directory);
    const all = told.map((each) => ({ name: Buffer.from(each.name, 'latin1'), told: each }));
    if (all.length <= MAX_EXPIRED_NAMES) return this.closeFor(directory, all, othersUntilMs);
    // Those that lead to nothing are never asked about again: it must let go of them.
    const missing = all.filter((each) => each.told.inode === undefined).slice(0, MAX_EXPIRED_NAMES);
    const untilMs = Math.max(othersUntilMs, ...told.map((each) => each.believedUntilMs));
    this.closeFor(directory, missing, untilMs);
  }

  /** Closes the gate of a directory until the kernel has let go of these names, and it is `untilMs`. */
  private closeFor(directory: InodeId, names: readonly Believed[], untilMs: number): void {
    const { clock, gates, notifier, nodes, inBackground } = this.options;
    const waitMs = untilMs - clock.monotonicMs();
    if (names.length === 0 && !(waitMs > 0)) return;
    const open = gates.close(directory);
    nodes.attributesDropped(directory, 0);
    notifier.dropAttributes(nodes.nodeidOf(directory));
    const stop = waitMs > 0 ? gates.refuse(directory) : undefined;
    inBackground('letting go of names that others change', async () => {
      try {
        for (const each of names) await this.letGo(directory, each);
        if (waitMs > 0) await sleep(clock, untilMs - clock.monotonicMs());
      } finally {
        stop?.();
        open();
      }
    });
  }

  private async letGo(directory: InodeId, { name, told }: Believed): Promise<void> {
    const { clock, gates, lateAnswers, notifier, nodes, toldNames, canExpire } = this.options;
    const nodeid = nodes.nodeidOf(directory);
    const late = lateAnswers.of(directory, name.toString('latin1'));
    // What is forgotten an answer that comes late does not make believed; but a directory may be somebody's, or something is mounted there.
    const mayForget = told?.isDirectory === false && late.length > 0;
    const expireOnly = canExpire() && !mayForget;
    try {
      await notifier.expireName(nodeid, name, expireOnly);
      if (expireOnly && late.length > 0) {
        const stop = gates.refuse(directory);
        await lateAnswers.taken(late);
        stop();
        await notifier.expireName(nodeid, name, expireOnly);
      }
      if (told !== undefined) toldNames.expired(told);
    } catch (error) {
      const untilMs = told?.believedUntilMs ?? toldNames.believedIn(directory).othersUntilMs;
      const stop = gates.refuse(directory);
      await sleep(clock, Math.max(0, untilMs - clock.monotonicMs()));
      stop();
      throw error;
    }
  }

  /** Those of which the kernel may believe attributes. */
  private filesOf(directory: InodeId): InodeId[] {
    const { told } = this.options.toldNames.believedIn(directory);
    const files = told.map(({ inode }) => inode).filter((inode) => inode !== undefined);
    return [...new Set([...files, ...this.options.openFiles()])];
  }

  private endAttributes(inodes: readonly InodeId[], waits: Promise<void>[]): void {
    const [now, later] = [inodes.slice(0, DROPS_IN_A_TURN), inodes.slice(DROPS_IN_A_TURN)];
    for (const inode of now) {
      const untaken = this.dropAttributes(inode);
      if (untaken !== undefined) waits.push(watched(untaken));
    }
    if (later.length === 0) return;
    waits.push(watched(this.endAttributesLater(later)));
  }

  private async endAttributesLater(inodes: readonly InodeId[]): Promise<void> {
    await sleep(this.options.clock, 0);
    const more: Promise<void>[] = [];
    this.endAttributes(inodes, more);
    await Promise.all(more);
  }

  /** The kernel drops them at once; or it has yet to learn of the inode from an answer, and drops them then. */
  private dropAttributes(inode: InodeId): Promise<void> | undefined {
    const { nodes, notifier } = this.options;
    nodes.attributesDropped(inode, 0);
    const isKnown = notifier.dropAttributes(nodes.nodeidOf(inode));
    return isKnown || !nodes.isTold(inode) ? undefined : this.dropWhenTaken(inode);
  }

  private async dropWhenTaken(inode: InodeId): Promise<void> {
    const { clock, nodes, notifier } = this.options;
    const endMs = clock.monotonicMs() + UNTAKEN_MS;
    for (let pauseMs = FIRST_TRY_MS; clock.monotonicMs() < endMs; pauseMs = Math.min(LONGEST_TRY_MS, 2 * pauseMs)) {
      await sleep(clock, pauseMs);
      if (!nodes.isTold(inode)) return;
      nodes.attributesDropped(inode, 0);
      if (notifier.dropAttributes(nodes.nodeidOf(inode))) return;
    }
  }
}
