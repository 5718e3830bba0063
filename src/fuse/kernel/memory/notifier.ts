/**
 * What the kernel is told without having asked: that what it keeps of a file is old.
 *
 * It then waits for reads of that file that are on their way, which this process must answer: so the message is sent by
 * another thread, one at a time, and whoever needs the effect awaits it. What is said of names waits for requests that change
 * names, or look them up, in the same directory: it goes in a thread of its own, so that pages do not wait for those.
 */
import { deferred, Mutex, watched } from '../../../core/sync.js';
import type { Deferred } from '../../../core/sync.js';
import type { FuseDevice } from '../wire/device.js';
import { invalidateEntry, invalidateInode, notificationHeader, storedBytes } from '../wire/encode.js';
import { NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE, NOTIFY_STORE } from '../wire/protocol.js';
import { MAX_WAITING_WRITES } from '../../../core/limits.js';

/** Pages to be dropped, of a message that is still to be sent. */
interface Dropping {
  from: number;
  end: number;
  readonly done: Promise<void>;
}

export class Notifier {
  private readonly turns = new Mutex('mount.drop');
  private readonly nameTurns = new Mutex('mount.names');
  /** By nodeid. */
  private readonly droppings = new Map<number, Dropping>();
  private readonly waitingWrites = new Set<Deferred<void>>();

  constructor(
    private readonly device: FuseDevice,
    /** Nobody is there to be told any more. */
    private readonly isClosed: () => boolean,
  ) {}

  /** Drops the attributes of a file, at once: that waits for nothing. False: the kernel does not know it, or not yet. */
  dropAttributes(nodeid: number): boolean {
    const body = invalidateInode(nodeid, -1);
    if (this.isClosed()) return true;
    try {
      this.device.send([notificationHeader(NOTIFY_INVAL_INODE, body.length), body]);
      return true;
    } catch (error) {
      throwUnlessGone(error);
      return !isUnknown(error);
    }
  }

  /** Resolves when the kernel asks before it believes the name again; unless `expireOnly` it forgets it, and what is mounted there. */
  expireName(directory: number, name: Buffer, expireOnly: boolean): Promise<void> {
    const body = [invalidateEntry(directory, name, expireOnly)];
    return this.nameTurns.run(() => this.sendInThread(NOTIFY_INVAL_ENTRY, body));
  }

  /** Drops the pages and the attributes of a file. */
  dropPages(nodeid: number): Promise<void> {
    return this.dropRange(nodeid, 0, 0);
  }

  /** Drops the pages of a part of a file, and its attributes. `length` 0: to the end. */
  dropRange(nodeid: number, offset: number, length: number): Promise<void> {
    return this.turns.run(() => this.sendDrop(nodeid, offset, length));
  }

  /** Puts bytes of a file into its pages. The file is at least that long for the kernel. */
  storeBytes(nodeid: number, offset: number, bytes: Buffer): Promise<void> {
    const body = [storedBytes(nodeid, offset, bytes.length), bytes];
    return this.turns.run(() => this.sendInThread(NOTIFY_STORE, body));
  }

  /**
   * Drops the pages of what was written past them, for the write to be answered then; when too many wait, the oldest
   * does not wait any longer. Drops of one file that have not begun become one: so the newest write of several, in
   * which the kernel sends a large one, waits for the pages of all. `onDropped` is called when the kernel has done so.
   */
  async dropWritten(nodeid: number, offset: number, length: number, onDropped?: () => void): Promise<void> {
    let dropping = this.droppings.get(nodeid);
    if (dropping === undefined) {
      const done = watched(
        this.turns.run(async () => {
          const { from, end } = this.droppings.get(nodeid) ?? { from: 0, end: Infinity };
          this.droppings.delete(nodeid);
          await this.sendDrop(nodeid, from, end === Infinity ? 0 : end - from);
        }),
      );
      dropping = { from: offset, end: offset + length, done };
      this.droppings.set(nodeid, dropping);
    } else {
      dropping.from = Math.min(dropping.from, offset);
      dropping.end = Math.max(dropping.end, offset + length);
    }
    const turn = deferred<void>();
    this.waitingWrites.add(turn);
    const [oldest] = this.waitingWrites;
    if (this.waitingWrites.size > MAX_WAITING_WRITES && oldest !== undefined) {
      this.waitingWrites.delete(oldest);
      oldest.resolve();
    }
    const leave = (): boolean => this.waitingWrites.delete(turn);
    dropping.done
      .then(() => onDropped?.())
      .then(turn.resolve, turn.reject)
      .then(leave, leave);
    await turn.promise;
  }

  /** `length` 0: to the end. */
  private sendDrop(nodeid: number, offset: number, length: number): Promise<void> {
    return this.sendInThread(NOTIFY_INVAL_INODE, [invalidateInode(nodeid, offset, length)]);
  }

  private async sendInThread(code: number, body: readonly Buffer[]): Promise<void> {
    if (this.isClosed()) return;
    const bytes = body.reduce((sum, part) => sum + part.length, 0);
    try {
      await this.device.sendInThread([notificationHeader(code, bytes), ...body]);
    } catch (error) {
      throwUnlessGone(error);
    }
  }
}

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

const isUnknown = (error: unknown): boolean => codeOf(error) === 'ENOENT';

/** ENOENT: the kernel does not know the inode, or the name, any more. ENODEV: it has unmounted. */
function throwUnlessGone(error: unknown): void {
  const code = codeOf(error);
  if (code !== 'ENOENT' && code !== 'ENODEV') throw error;
}
