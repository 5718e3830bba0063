/**
 * The locks of this client's programs. The master decides. This keeps who has any, what each holds (lock-owner.ts), to tell
 * it again after a reconnect, and who waits (lock-waits.ts).
 */
import { CairnError } from '../../core/errors.js';
import type { InodeId } from '../../core/ids.js';
import type { LockHolder, LockKind, LockOptions, LockRequest } from '../../filesystem/filesystem.js';
import { LockTypeType } from '../../protocol/generated/messages.js';
import type { LockStateInit } from '../../protocol/generated/messages.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { LOCK_SET_TIMEOUT_MS } from '../../core/limits.js';
import { LockOwner, type LockOwnerOptions } from './lock-owner.js';
import { LockWaits } from './lock-waits.js';
import { wireLock } from './wire-locks.js';

export class FileLocks {
  private readonly owners = new Map<string, LockOwner>();
  private readonly waits: LockWaits;

  constructor(private readonly options: LockOwnerOptions) {
    this.waits = new LockWaits(options);
  }

  async find(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined> {
    checkRange(request);
    const { holder, own } = await this.options.master.call(
      MASTER_METHODS.getLock,
      { lock: wireLock(inode, request) },
      { timeoutMs: LOCK_SET_TIMEOUT_MS },
    );
    if (holder === null) return undefined;
    const { start, end, pid } = holder;
    return { type: holder.type === LockTypeType.READ ? 'read' : 'write', start, end, pid: own ? pid : 0 };
  }

  async set(inode: InodeId, request: LockRequest, options: LockOptions): Promise<void> {
    checkRange(request);
    await this.ownerOf(inode, request.kind, request.owner).set(request, options);
  }

  async release(inode: InodeId, kind: LockKind, name: string): Promise<void> {
    await this.owners.get(ownerKey(inode, kind, name))?.release();
  }

  /** What is held, for the master after a reconnect. */
  *states(): Generator<LockStateInit> {
    for (const owner of this.owners.values()) yield* owner.states();
  }

  /** The session is gone, and all locks with it: the inodes that had any. */
  sessionLost(): Set<InodeId> {
    const lost = new Set<InodeId>();
    for (const owner of this.owners.values()) {
      if (owner.holdsAny) lost.add(owner.inode);
      owner.sessionLost();
    }
    this.waits.sessionLost();
    return lost;
  }

  private ownerOf(inode: InodeId, kind: LockKind, name: string): LockOwner {
    const key = ownerKey(inode, kind, name);
    let owner = this.owners.get(key);
    if (owner === undefined) {
      owner = new LockOwner(inode, kind, name, this.waits, this.options, () => this.owners.delete(key));
      this.owners.set(key, owner);
    }
    return owner;
  }
}

const ownerKey = (inode: InodeId, kind: LockKind, name: string): string => `${inode}/${kind}/${name}`;

function checkRange({ start, end }: LockRequest): void {
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || start > end) {
    throw new CairnError('EINVAL', `there are no bytes from ${start} to ${end}`);
  }
}
