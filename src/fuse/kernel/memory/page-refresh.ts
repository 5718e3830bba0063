/**
 * Makes the kernel drop what it keeps of files that changed, for who may read on only when that is done: who was granted a
 * lock. Those who come while it is being done wait for the same drop.
 */
import type { InodeId } from '../../../core/ids.js';
import { watched } from '../../../core/sync.js';
import type { Attributes } from '../../../filesystem/filesystem.js';
import type { NodeTable } from './node-table.js';

interface Run {
  readonly change: number;
  readonly done: Promise<void>;
}

export class PageRefresh {
  private readonly runs = new Map<InodeId, Run>();

  constructor(
    private readonly nodes: NodeTable,
    private readonly dropPages: (nodeid: number) => Promise<void>,
  ) {}

  /** For a thread that waits for it. Resolves when every page that the kernel keeps of the file is as new as `attributes`. */
  async run(attributes: Attributes, thread: number): Promise<void> {
    const { inode, change } = attributes;
    if (this.nodes.pagesAreCurrent(attributes)) return;
    const running = this.runs.get(inode);
    if (running?.change === change) return running.done;
    const run: Run = { change, done: watched(this.drop(attributes, thread)) };
    this.runs.set(inode, run);
    try {
      await run.done;
    } finally {
      if (this.runs.get(inode) === run) this.runs.delete(inode);
    }
  }

  private async drop(attributes: Attributes, thread: number): Promise<void> {
    const { inode } = attributes;
    const drop = this.nodes.dropping(attributes);
    // With its attributes, at some time until it is done.
    this.nodes.attributesDropped(inode, thread);
    await this.dropPages(this.nodes.nodeidOf(inode));
    this.nodes.attributesDropped(inode, thread);
    this.nodes.dropped(inode, drop);
  }
}
