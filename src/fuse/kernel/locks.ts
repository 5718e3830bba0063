/**
 * Requests about locks: those of fcntl(2), of a process or of an open file description, and of flock(2).
 *
 * An owner is a number that the kernel makes: of the process' table of files, or of the open file. The kernel itself
 * gives nothing up when a file is closed: FLUSH says that a process closed the file, which ends its fcntl locks on it,
 * and RELEASE that the last one did, which ends flock's and those of the open file description.
 */
import { sleep } from '../../core/clock.js';
import { CairnError, hasCode } from '../../core/errors.js';
import { MAX_LOCK_END } from '../../core/lock-ranges.js';
import type { LockKind, LockRequest } from '../../filesystem/filesystem.js';
import type { InodeId } from '../../core/ids.js';
import type { Cursor } from './wire/decode.js';
import { lockOut } from './wire/encode.js';
import { F_RDLCK, F_UNLCK, F_WRLCK, LK_FLOCK } from './wire/protocol.js';
import type { Opcode } from './wire/protocol.js';
import { answer, DONE } from './wire/request.js';
import type { Answer, Handler, Request } from './wire/request.js';
import { usedHandle } from './session.js';
import type { OpenHandle, Session } from './session.js';

/** A RELEASE that the kernel sent before a lock was asked for has arrived by then, and is answered. */
const RELEASE_GRACE_MS = 10;

export class LockRequests {
  readonly handlers: Partial<Record<Opcode, Handler>> = {
    GETLK: (request) => this.get(request),
    SETLK: (request) => this.set(request, false),
    SETLKW: (request) => this.set(request, true),
  };

  constructor(private readonly session: Session) {}

  private async get({ body }: Request): Promise<Answer> {
    const { session } = this;
    const handle = session.files.get(body.u64());
    const request = decodeLock(body);
    const holder = await session.fileSystem.getLock(handle.file.inode, request);
    if (holder === undefined) return answer(lockOut({ ...request, type: 'unlock', pid: 0 }));
    return answer(lockOut(holder));
  }

  private async set(request: Request, wait: boolean): Promise<Answer> {
    const { session } = this;
    const handle = usedHandle(session, request.body.u64());
    const { inode } = handle.file;
    const lock = decodeLock(request.body);
    if (lock.kind === 'posix' && lock.type !== 'unlock') handle.lockOwners.add(lock.owner);
    // Who has the lock must see what its holder before wrote, on whatever mount (P2).
    const onGranted = (): Promise<void> => {
      request.waitsForOthers();
      return session.refreshPages(inode, request.caller.pid);
    };
    const take = () => session.fileSystem.setLock(inode, lock, { wait, signal: request.interrupted(), onGranted });
    await take().catch(async (error: unknown) => {
      if (wait || lock.kind !== 'flock' || !hasCode(error, 'EAGAIN')) throw error;
      // close(2) gives flock's lock up by RELEASE, for which it does not wait: it may be behind this request.
      await sleep(session.clock, RELEASE_GRACE_MS);
      return take();
    });
    if (lock.type === 'unlock') return DONE;
    const undo = (): void => {
      session.inBackground('giving back a lock that nobody took', async () =>
        session.fileSystem.setLock(inode, { ...lock, type: 'unlock' }, { wait: false }),
      );
    };
    return { ...DONE, undo };
  }
}

/** A process closed the file: its fcntl locks on it end, through whichever descriptor they were made. */
export async function closedBy({ fileSystem }: Session, handle: OpenHandle, owner: string): Promise<void> {
  handle.lockOwners.delete(owner);
  await fileSystem.releaseLocks(handle.file.inode, 'posix', owner);
}

/** The open file is gone, and with it its flock(2) lock and those that it owned as an open file description. */
export async function closedForGood(
  { fileSystem }: Session,
  handle: OpenHandle,
  flockOwner: string | undefined,
): Promise<void> {
  const { inode }: { inode: InodeId } = handle.file;
  // All, also when one cannot be given up now: nobody comes by this handle again.
  const flock = flockOwner === undefined ? [] : [{ kind: 'flock' as const, owner: flockOwner }];
  const posix = [...handle.lockOwners].map((owner) => ({ kind: 'posix' as const, owner }));
  const outcomes = await Promise.allSettled(
    [...flock, ...posix].map(({ kind, owner }) => fileSystem.releaseLocks(inode, kind, owner)),
  );
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

/** Numbers of owners have 64 bits, and mean nothing but themselves. */
export const ownerName = (owner: bigint): string => owner.toString(16);

/** The rest of fuse_lk_in, behind the handle. */
function decodeLock(body: Cursor): LockRequest {
  const owner = ownerName(body.big());
  const [start, end] = [lockOffset(body.big()), lockOffset(body.big())];
  const [type, pid, flags] = [body.u32(), body.u32(), body.u32()];
  const kind: LockKind = (flags & LK_FLOCK) !== 0 ? 'flock' : 'posix';
  const range = kind === 'flock' ? { start: 0, end: MAX_LOCK_END } : { start, end };
  return { kind, type: lockType(type), ...range, owner, pid };
}

/** Past what a file can have, all is the end. */
const lockOffset = (offset: bigint): number => (offset >= BigInt(MAX_LOCK_END) ? MAX_LOCK_END : Number(offset));

function lockType(type: number): LockRequest['type'] {
  switch (type) {
    case F_RDLCK:
      return 'read';
    case F_WRLCK:
      return 'write';
    case F_UNLCK:
      return 'unlock';
    default:
      throw new CairnError('EINVAL', `there is no lock of type ${type}`);
  }
}
