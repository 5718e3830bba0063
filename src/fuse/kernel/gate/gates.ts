/**
 * Directories of which the kernel may remember a name that others change now. It asks for a directory's attributes before it trusts a
 * name in it, once it was told that those are old, and is answered when it has let go of the name: the gate is closed until then.
 * While it is, everything that is told of the directory and its names holds for no time.
 */
import { deferred } from '../../../core/sync.js';
import type { Deferred } from '../../../core/sync.js';
import type { InodeId } from '../../../core/ids.js';

interface Gate {
  /** Who closed it, and has not opened it again. */
  closers: number;
  /** Of those, who will not soon. */
  refusing: number;
  readonly opened: Deferred<void>;
}

export class Gates {
  private readonly gates = new Map<InodeId, Gate>();

  /** Returns what opens it again, unless others keep it closed. */
  close(directory: InodeId): () => void {
    let gate = this.gates.get(directory);
    if (gate === undefined) this.gates.set(directory, (gate = { closers: 0, refusing: 0, opened: deferred() }));
    const closed = gate;
    closed.closers++;
    return () => {
      if (--closed.closers > 0) return;
      this.gates.delete(directory);
      closed.opened.resolve();
    };
  }

  /** It stays closed for longer than anybody should wait. Returns what ends that. */
  refuse(directory: InodeId): () => void {
    const gate = this.gates.get(directory);
    if (gate === undefined) return () => undefined;
    gate.refusing++;
    return () => {
      gate.refusing--;
    };
  }

  isClosed(directory: InodeId): boolean {
    return this.gates.has(directory);
  }

  refuses(directory: InodeId): boolean {
    return (this.gates.get(directory)?.refusing ?? 0) > 0;
  }

  /** Resolves when it is open; at once if it is. */
  async opened(directory: InodeId): Promise<void> {
    await this.gates.get(directory)?.opened.promise;
  }
}
