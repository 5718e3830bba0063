/**
 * Recalls: others are about to change what this client holds. It is forgotten here in the order in which the master says so, among
 * the answers that it gives; then by whoever was told more, as the kernel; and then the master is answered, and others go on.
 */
import { asCairnError } from '../../core/errors.js';
import { inodeId, type InodeId } from '../../core/ids.js';
import { MAX_FILE_BYTES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Beliefs, Recalled, RecallListener } from '../../filesystem/filesystem.js';
import type { Recall } from '../../protocol/generated/messages.js';
import type { ClientMethods } from '../../protocol/methods.js';
import type { Handlers } from '../../protocol/rpc.js';
import type { Holdings } from '../session/holdings.js';
import type { AttributeCache } from './attribute-cache.js';
import type { KnownInodes } from './known-inodes.js';
import type { Listings } from './listings.js';
import type { WholeDirectories } from './whole-directories.js';

export interface RecallsOptions {
  readonly holdings: Holdings;
  readonly cache: AttributeCache;
  readonly listings: Listings;
  readonly whole: WholeDirectories;
  readonly logger: Logger;
  /** None yet: nothing is open. */
  readonly inodes: () => KnownInodes | undefined;
}

export class Recalls implements Beliefs {
  readonly handlers: Handlers<ClientMethods> = {
    recall: ({ items }) => {
      const told = this.forget(items);
      return told === undefined ? { reply: {} } : told.then(() => ({ reply: {} }));
    },
  };
  private listener: RecallListener | undefined;

  constructor(private readonly options: RecallsOptions) {}

  // ---- Beliefs ----------------------------------------------------------------------------------

  nameMs(parent: InodeId, name: Buffer, inode: InodeId | undefined): number {
    return this.options.cache.nameMs(parent, name, inode);
  }

  attributesMs(inode: InodeId, change: number): number {
    return this.options.cache.attributesMs(inode, change);
  }

  watchRecalls(listener: RecallListener): void {
    this.listener = listener;
  }

  // ---- Forgetting -------------------------------------------------------------------------------

  private forget(items: readonly Recall[]): Promise<void> | undefined {
    return this.tell(items.map((item) => this.forgetOne(item)));
  }

  private forgetOne(item: Recall): Recalled {
    const { cache, listings, whole, holdings } = this.options;
    const inode = inodeId(item.inode);
    const names = item.names.map((name) => Buffer.from(name));
    const attributes = item.attributes.map(inodeId);
    const contents = item.contents.map(inodeId);
    if (item.whole) holdings.end(inode);
    if (item.self || item.whole) {
      cache.dropAttributes(inode);
      listings.drop(inode);
      attributes.push(inode);
    }
    for (const name of names) {
      cache.recallName(inode, name);
      whole.mayExist(inode, name);
    }
    for (const each of attributes) cache.dropAttributes(each);
    for (const each of contents) {
      cache.dropAttributes(each);
      // The new bytes are on the chunkservers already: what is read from now on is new.
      this.options.inodes()?.get(each)?.invalidateReads(0, MAX_FILE_BYTES);
    }
    return { inode, whole: item.whole, names, attributes, contents };
  }

  /** Holdings ended that the master does not hold others up for any more. */
  ended(inodes: readonly InodeId[]): Promise<void> | undefined {
    const { cache, listings } = this.options;
    if (inodes.length === 0) return undefined;
    for (const inode of inodes) {
      cache.dropAttributes(inode);
      listings.drop(inode);
    }
    return this.tell(inodes.map((inode) => ({ inode, whole: true, names: [], attributes: [inode], contents: [] })));
  }

  /** All of them, likewise. */
  allEnded(): Promise<void> | undefined {
    return this.ended(this.options.holdings.endAll());
  }

  private tell(recalled: readonly Recalled[]): Promise<void> | undefined {
    if (recalled.length === 0) return undefined;
    return this.listener?.(recalled)?.catch((error: unknown) => {
      // It does not believe for ever, and the master gives up who does not answer: so it gets none.
      this.options.logger.error({ reason: asCairnError(error).message }, 'what was recalled could not be forgotten');
      throw error;
    });
  }
}
