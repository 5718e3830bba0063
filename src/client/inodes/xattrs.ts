/** Extended attributes and ACLs: the master has them; the attributes that are cached tell which inodes have none. */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import type { Credentials } from '../../filesystem/filesystem.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import type { MasterConnection } from '../session/master-connection.js';
import { toWireCaller } from '../session/wire-attributes.js';
import type { AttributeCache } from './attribute-cache.js';
import type { KnownInodes } from './known-inodes.js';

const XATTR_CREATE = 1;
const XATTR_REPLACE = 2;
const TAKEN_BY_WRITES = new Set(['security.capability', 'system.posix_acl_access']);
/** Of which no permission is needed to be told that they are not there. */
const OFTEN_ASKED_XATTRS = new Set(['security.capability', 'system.posix_acl_access', 'system.posix_acl_default']);

export interface XattrFlags {
  readonly create?: boolean;
  readonly replace?: boolean;
}

export class Xattrs {
  constructor(
    private readonly master: MasterConnection,
    private readonly cache: AttributeCache,
    private readonly inodes: KnownInodes,
  ) {}

  async get(credentials: Credentials, inode: InodeId, name: Buffer): Promise<Buffer> {
    // The kernel and `ls -l` ask for these of every file, and hardly one has them.
    if (OFTEN_ASKED_XATTRS.has(name.toString('latin1')) && this.cache.getAttributes(inode)?.hasXattrs === false) {
      throw new CairnError('ENODATA', `inode ${inode} has no xattrs`);
    }
    const reply = await this.master.call(MASTER_METHODS.getXattr, { caller: toWireCaller(credentials), inode, name });
    return Buffer.from(reply.value);
  }

  async set(
    credentials: Credentials,
    inode: InodeId,
    name: Buffer,
    value: Uint8Array,
    flags: XattrFlags = {},
  ): Promise<void> {
    const bits = (flags.create === true ? XATTR_CREATE : 0) | (flags.replace === true ? XATTR_REPLACE : 0);
    // A write takes capabilities away, and set-group-id by the permissions of the group: one before this must not after it.
    if (TAKEN_BY_WRITES.has(name.toString('latin1'))) await this.inodes.publish(inode);
    await this.master.mutate(
      MASTER_METHODS.setXattr,
      (operation) => ({ operation, caller: toWireCaller(credentials), inode, name, value, flags: bits }),
      { idempotent: bits === 0 },
    );
    this.inodes.noteChange(inode);
    this.cache.dropAttributes(inode);
  }

  async list(credentials: Credentials, inode: InodeId): Promise<Buffer[]> {
    if (this.cache.getAttributes(inode)?.hasXattrs === false) return [];
    const reply = await this.master.call(MASTER_METHODS.listXattrs, { caller: toWireCaller(credentials), inode });
    return reply.names.map((name) => Buffer.from(name));
  }

  async remove(credentials: Credentials, inode: InodeId, name: Buffer): Promise<void> {
    await this.master.mutate(MASTER_METHODS.removeXattr, (operation) => ({
      operation,
      caller: toWireCaller(credentials),
      inode,
      name,
    }));
    this.inodes.noteChange(inode);
    this.cache.dropAttributes(inode);
  }
}
