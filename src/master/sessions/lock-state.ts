/** Locks as the messages say them. */
import { CairnError } from '../../core/errors.js';
import { inodeId } from '../../core/ids.js';
import type { SessionId } from '../../core/ids.js';
import { MAX_LOCK_OWNER_BYTES } from '../../core/limits.js';
import type { LockedRange } from '../../core/lock-ranges.js';
import { LockKindKind, LockTypeType } from '../../protocol/generated/messages.js';
import type { LockState } from '../../protocol/generated/messages.js';
import type { LockKind, LockPlace } from './locked-file.js';

/** What a message says of a lock, checked. */
export function lockOf(
  session: SessionId,
  lock: LockState | null,
): { readonly place: LockPlace; readonly type: 'read' | 'write' | 'unlock' } & Omit<LockedRange, 'type'> {
  if (lock === null) throw new CairnError('PROTOCOL', 'the request names no lock');
  const { start, end, pid, owner } = lock;
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end)) {
    throw new CairnError('EINVAL', `a lock from ${start} to ${end} is past every file`);
  }
  if (start > end) throw new CairnError('EINVAL', `a lock from ${start} to ${end} has no bytes`);
  if (owner.length === 0 || Buffer.byteLength(owner) > MAX_LOCK_OWNER_BYTES) {
    throw new CairnError('PROTOCOL', `the owner of a lock has 1 to ${MAX_LOCK_OWNER_BYTES} bytes`);
  }
  const place = { session, inode: inodeId(lock.inode), kind: kindOf(lock.kind), owner };
  return { place, type: typeOf(lock.type), start, end, pid };
}

export function kindOf(kind: number): LockKind {
  if (kind === LockKindKind.POSIX) return 'posix';
  if (kind === LockKindKind.FLOCK) return 'flock';
  throw new CairnError('PROTOCOL', `there are no locks of kind ${kind}`);
}

function typeOf(type: number): 'read' | 'write' | 'unlock' {
  if (type === LockTypeType.READ) return 'read';
  if (type === LockTypeType.WRITE) return 'write';
  if (type === LockTypeType.UNLOCK) return 'unlock';
  throw new CairnError('PROTOCOL', `there are no locks of type ${type}`);
}
