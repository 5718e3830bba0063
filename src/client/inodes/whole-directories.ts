/**
 * Directories of which every name is known while they are held: those that this client made, and those that it has listed at once. A
 * name that is not among them is missing, and the master need not be asked: so each file of a tree that is unpacked costs a question less.
 *
 * What is kept are names that may be there: own creations are added before they are asked for, and those of others when they are
 * recalled; none is taken away, as the names of what was removed are remembered elsewhere (attribute-cache.ts).
 */
import type { InodeId } from '../../core/ids.js';
import { MAX_WHOLE_NAMES } from '../../core/limits.js';
import type { Holding, Holdings } from '../session/holdings.js';

interface WholeDirectory {
  readonly holding: Holding;
  readonly names: Set<string>;
}

export class WholeDirectories {
  /** In the order in which they became known. */
  private readonly directories = new Map<InodeId, WholeDirectory>();
  /** Own creations on their way. */
  private readonly coming = new Map<InodeId, string[]>();
  private count = 0;

  constructor(
    private readonly holdings: Holdings,
    private readonly maxNames = MAX_WHOLE_NAMES,
  ) {}

  /** These are all names of the directory, and will be until others' changes of them are recalled. */
  put(directory: InodeId, names: Iterable<Buffer>, holding: Holding): void {
    this.forget(directory);
    const known = new Set<string>(this.coming.get(directory));
    for (const name of names) known.add(name.toString('latin1'));
    this.directories.set(directory, { holding, names: known });
    this.count += known.size + 1;
    this.makeRoom();
  }

  /** Runs `make`, which may make this name here. */
  async adding<T>(directory: InodeId, name: Buffer, make: () => Promise<T>): Promise<T> {
    if (!this.holdings.areWanted) return make();
    const key = name.toString('latin1');
    this.mayExist(directory, name);
    const coming = this.coming.get(directory) ?? [];
    this.coming.set(directory, coming);
    coming.push(key);
    try {
      return await make();
    } finally {
      coming.splice(coming.indexOf(key), 1);
      if (coming.length === 0) this.coming.delete(directory);
    }
  }

  /** From now on the name may be there. */
  mayExist(directory: InodeId, name: Buffer): void {
    const whole = this.directories.get(directory);
    if (whole === undefined) return;
    const before = whole.names.size;
    whole.names.add(name.toString('latin1'));
    this.count += whole.names.size - before;
    this.makeRoom();
  }

  /** The holding of the directory, if that is known to have no such name. */
  lacks(directory: InodeId, name: Buffer): Holding | undefined {
    const whole = this.directories.get(directory);
    if (whole === undefined) return undefined;
    if (!whole.holding.stands) this.forget(directory);
    else if (this.holdings.isGood(whole.holding) && !whole.names.has(name.toString('latin1'))) return whole.holding;
    return undefined;
  }

  private forget(directory: InodeId): void {
    const whole = this.directories.get(directory);
    if (whole === undefined) return;
    this.directories.delete(directory);
    this.count -= whole.names.size + 1;
  }

  private makeRoom(): void {
    for (const oldest of this.directories.keys()) {
      if (this.count <= this.maxNames) return;
      this.forget(oldest);
    }
  }
}
