/** Locks, in the wire's terms. */
import type { InodeId } from '../../core/ids.js';
import type { LockKind, LockRequest } from '../../filesystem/filesystem.js';
import { LockKindKind, LockTypeType } from '../../protocol/generated/messages.js';
import type { LockStateInit } from '../../protocol/generated/messages.js';

export const wireKind = (kind: LockKind): LockKindKind => (kind === 'posix' ? LockKindKind.POSIX : LockKindKind.FLOCK);

const WIRE_TYPES = { read: LockTypeType.READ, write: LockTypeType.WRITE, unlock: LockTypeType.UNLOCK } as const;

export function wireLock(inode: InodeId, { kind, type, start, end, owner, pid }: LockRequest): LockStateInit {
  return { inode, kind: wireKind(kind), type: WIRE_TYPES[type], start, end, owner, pid };
}
