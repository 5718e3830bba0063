/**
 * Locks of a DirectoryFileSystem. The kernel knows owners by their process or by their open file, so each owner is a process
 * of its own, an agent with the file open once.
 */
import { CairnError } from '../../../src/core/errors.js';
import type { InodeId } from '../../../src/core/ids.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import type { LockHolder, LockKind, LockRequest } from '../../../src/filesystem/filesystem.js';
import { SystemCallAgent } from '../system-calls/system-call-agent.js';
import { AT, F, LOCK, O, SystemCalls } from '../system-calls/system-calls.js';

/** fcntl(2)'s record locks, which a process owns, or its open file description locks. */
export type PosixLockFlavour = 'process' | 'description';

interface Owner {
  readonly system: SystemCalls;
  readonly files: Map<InodeId, Promise<number>>;
  readonly waits: Set<AbortController>;
}

export class DirectoryLocks {
  private readonly owners = new Map<string, Promise<Owner>>();
  /** What an owner of a request calls its process, by what the kernel calls it. */
  private readonly pids = new Map<number, number>();

  constructor(
    private readonly flavour: PosixLockFlavour,
    /** Where another process can open the inode. */
    private readonly pathTo: (inode: InodeId) => Promise<string>,
  ) {}

  async get(inode: InodeId, request: LockRequest): Promise<LockHolder | undefined> {
    const { system, file } = await this.opened(inode, request);
    const command = this.flavour === 'process' ? F.GETLK : F.OFD_GETLK;
    const found = await system.fcntlLock(file, command, this.lockOf(request));
    if (found.type === 'unlock') return undefined;
    const end = found.length === 0 ? MAX_LOCK_END : found.start + found.length - 1;
    return { type: found.type, start: found.start, end, pid: this.pids.get(found.pid) ?? found.pid };
  }

  async set(
    inode: InodeId,
    request: LockRequest,
    options: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    if (request.end < request.start)
      throw new CairnError('EINVAL', 'no call can say a range that ends before it starts');
    const { system, file, owner } = await this.opened(inode, request);
    const abort = new AbortController();
    const interrupt = (): void => abort.abort();
    if (options.signal?.aborted === true) abort.abort();
    options.signal?.addEventListener('abort', interrupt);
    owner.waits.add(abort);
    try {
      if (request.kind === 'flock') {
        const operation = { read: LOCK.SH, write: LOCK.EX, unlock: LOCK.UN }[request.type];
        await system.flock(file, operation | (options.wait ? 0 : LOCK.NB), { signal: abort.signal });
      } else {
        const [now, wait] = this.flavour === 'process' ? [F.SETLK, F.SETLKW] : [F.OFD_SETLK, F.OFD_SETLKW];
        await system.fcntlLock(file, options.wait ? wait : now, this.lockOf(request), { signal: abort.signal });
      }
    } finally {
      owner.waits.delete(abort);
      options.signal?.removeEventListener('abort', interrupt);
    }
  }

  /** Closes the owner's file. */
  async release(inode: InodeId, kind: LockKind, owner: string): Promise<void> {
    const found = await this.owners.get(`${kind} ${owner}`);
    const file = await found?.files.get(inode);
    if (found === undefined || file === undefined) return;
    for (const wait of found.waits) wait.abort();
    found.files.delete(inode);
    if (kind === 'posix' && this.flavour === 'description') {
      // A mount hears of an open file's last close a moment after close(2) returned.
      await found.system.fcntlLock(file, F.OFD_SETLK, { type: 'unlock', start: 0, length: 0, pid: 0 });
    }
    await found.system.close(file);
  }

  /** Ends all owners, and with them their locks. */
  stop(): void {
    for (const owner of this.owners.values()) void owner.then(({ system }) => system.agent.stop());
    this.owners.clear();
    this.pids.clear();
  }

  private async opened(
    inode: InodeId,
    request: LockRequest,
  ): Promise<{ readonly system: SystemCalls; readonly file: number; readonly owner: Owner }> {
    const key = `${request.kind} ${request.owner}`;
    let starting = this.owners.get(key);
    if (starting === undefined) {
      starting = SystemCallAgent.start().then((agent) => {
        this.pids.set(agent.pid, request.pid);
        return { system: new SystemCalls(agent), files: new Map(), waits: new Set() };
      });
      this.owners.set(key, starting);
    }
    const owner = await starting;
    let file = owner.files.get(inode);
    if (file === undefined) {
      file = this.pathTo(inode).then((path) => owner.system.openat(AT.FDCWD, path, O.RDWR));
      owner.files.set(inode, file);
    }
    return { system: owner.system, file: await file, owner };
  }

  private lockOf(request: LockRequest): { type: LockRequest['type']; start: number; length: number; pid: number } {
    const length = request.end === MAX_LOCK_END ? 0 : request.end - request.start + 1;
    return { type: request.type, start: request.start, length, pid: 0 };
  }
}
