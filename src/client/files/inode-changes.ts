/**
 * Changes of a file's attributes and layout at the master, in order with this client's own writes to it. Those that change
 * bytes are refused when locks on the file were lost, also when they are repeated in a new session.
 */
import type { Clock } from '../../core/clock.js';
import type { InodeId } from '../../core/ids.js';
import type { AttributeChanges, Credentials } from '../../filesystem/filesystem.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { WriteLeases } from '../chunks/write-leases.js';
import type { KnownInodes } from '../inodes/known-inodes.js';
import type { MasterConnection } from '../session/master-connection.js';
import { fromWireAttributes, toWireCaller, type InodeAttributes } from '../session/wire-attributes.js';

export interface InodeChangesOptions {
  readonly clock: Clock;
  readonly master: Pick<MasterConnection, 'mutate'>;
  readonly inodes: KnownInodes;
  readonly leases: WriteLeases;
}

export class InodeChanges {
  constructor(private readonly options: InodeChangesOptions) {}

  /** setAttributes. */
  async changeAttributes(
    credentials: Credentials,
    inode: InodeId,
    changes: AttributeChanges,
    openedForWriting: boolean,
  ): Promise<InodeAttributes> {
    const { master, inodes } = this.options;
    const { atime, mtime, ...plain } = changes;
    const { lockLosses } = inodes;
    const change = async (): Promise<InodeAttributes> => {
      const asked = inodes.moment;
      const reply = await master.mutate(
        MASTER_METHODS.setAttributes,
        (operation) => {
          // Also when it is repeated in a new session.
          if (changes.size !== undefined) inodes.requireWritable(inode, lockLosses);
          return {
            operation,
            caller: toWireCaller(credentials),
            inode,
            ...plain,
            openedForWriting,
            ...(atime === 'now' ? { atimeNow: true } : { atime }),
            ...(mtime === 'now' ? { mtimeNow: true } : { mtime }),
          };
        },
        { idempotent: true },
      );
      const attributes = inodes.changedOnce(fromWireAttributes(reply), asked);
      if (changes.size !== undefined) inodes.layoutChanged(attributes, asked);
      return attributes;
    };
    const open = inodes.get(inode);
    if (open !== undefined && atime !== undefined) open.readAt = undefined;
    const writer = open?.writer;
    if (writer !== undefined && changes.size !== undefined) return writer.truncate(change);
    if (writer !== undefined && mtime !== undefined) return writer.setTimes(change);
    // What a write takes off the mode it takes off before this change, not after it.
    const depends = changes.mode !== undefined || changes.uid !== undefined || changes.gid !== undefined;
    if (depends && writer?.kills === true) await writer.flush();
    return change();
  }

  async setSize(credentials: Credentials, inode: InodeId, size: number): Promise<void> {
    await this.changeAttributes(credentials, inode, { size }, true);
  }

  /** Setuid and setgid go with the first write of who may not keep them; seen at once, not with the next publication. */
  async killPrivileges(credentials: Credentials, inode: InodeId): Promise<void> {
    await this.changeAttributes(credentials, inode, { killPrivileges: true }, true);
  }

  /** Makes holes of whole chunks. */
  async punch(inode: InodeId, firstIndex: number, count: number): Promise<void> {
    const { master, inodes, leases } = this.options;
    const { lockLosses } = inodes;
    const change = async (): Promise<InodeAttributes> => {
      const asked = inodes.moment;
      const reply = await master.mutate(
        MASTER_METHODS.punchChunks,
        (operation) => {
          inodes.requireWritable(inode, lockLosses);
          return { operation, inode, firstIndex, count };
        },
        { idempotent: true },
      );
      const attributes = inodes.changedOnce(fromWireAttributes(reply), asked);
      inodes.layoutChanged(attributes, asked);
      leases.drop(inode, firstIndex);
      writer?.forgetUnsynced(firstIndex, count);
      return attributes;
    };
    const writer = inodes.get(inode)?.writer;
    await (writer === undefined ? change() : writer.truncate(change));
  }

  /** The file has at least `end` bytes, and was changed now. */
  async extend(credentials: Credentials, inode: InodeId, end: number): Promise<void> {
    const { master, clock, inodes } = this.options;
    const mtime = clock.now();
    const killPrivileges = credentials.uid !== 0;
    const asked = inodes.moment;
    const reply = await master.mutate(
      MASTER_METHODS.publish,
      (operation) => {
        inodes.requireWritable(inode);
        return { operation, inode, end, mtime, killPrivileges };
      },
      { idempotent: true },
    );
    inodes.changedOnce(fromWireAttributes(reply), asked);
  }
}
