/**
 * A model of the kernel over one mount, for the simulator: programs make system calls, and the model answers from what it remembers or
 * asks the mount, as Linux 6.18 does (fs/namei.c, fs/fuse). Its parts:
 *
 *   door.ts           the descriptor
 *   inode-memory.ts   what is kept of an inode: attributes, pages, entries
 *   this file         walks along paths, and calls
 *
 * Left out: permissions but for the look at each directory that they need, links, mappings, O_DIRECT, readahead, memory that runs short.
 * The caller of each request is a thread that exists on no machine; a few threads make all calls, each one with the same arguments in the
 * same place, so that nothing but its number tells a call from the one before.
 */
import type { Clock } from '../../../src/core/clock.js';
import { FOPEN_KEEP_CACHE } from '../../../src/fuse/kernel/wire/protocol.js';
import type { Opcode } from '../../../src/fuse/kernel/wire/protocol.js';
import type { Threads } from '../../../src/fuse/kernel/gate/system-call.js';
import { cstrings, u32, u64 } from '../../support/fakes/fake-kernel.js';
import type { FakeReply } from '../../support/fakes/fake-kernel.js';
import { attributesIn, demand, ENTRY_BYTES, entryIn, ERRNO, listedIn, openIn, SystemCallError } from './answers.js';
import type { EntryAnswer } from './answers.js';
import { Door } from './door.js';
import { InodeMemory, PAGE_BYTES, Versions } from './inode-memory.js';
import type { ToldAttributes } from './inode-memory.js';

const ROOT_NODEID = 1;
const O_WRONLY = 1;
const O_RDWR = 2;
const O_EXCL = 0o200;
const LISTING_BYTES = 4_096;
/** No thread of this machine has such a number. */
const FIRST_THREAD = 2 ** 30;

/** An open file of a program. */
export interface Descriptor {
  readonly inode: InodeMemory;
  readonly handle: number;
}

/** Numbers of system calls on x86-64, as /proc/TID/syscall tells them, with arguments. */
const SYSTEM_CALLS = {
  stat: '262 0xffffff9c 0x7000 0x7100 0x0',
  open: '257 0xffffff9c 0x7000 0x0 0x0',
  create: '257 0xffffff9c 0x7000 0xc2 0x1a4',
  mkdir: '258 0xffffff9c 0x7000 0x1ed 0x0',
  unlink: '87 0x7000 0x0 0x0 0x0',
  rename: '82 0x7000 0x7080 0x0 0x0',
  list: '217 0x3 0x7000 0x8000 0x0',
  fstat: '5 0x3 0x7000 0x0 0x0',
} as const;
type SystemCallName = keyof typeof SYSTEM_CALLS;
const callText = (name: SystemCallName): string => `${SYSTEM_CALLS[name]} 0x0 0x0 0x7fff0 0x4000`;

/** Of one walk along a path. */
interface Walk {
  readonly thread: number;
  /** Every name is asked for, as after ESTALE. */
  readonly isSecond: boolean;
}

export interface SimulatedKernelOptions {
  readonly clock: Clock;
  /** Until a thread that has its answer runs. */
  readonly wake: () => Promise<void>;
}

export class SimulatedKernel {
  readonly door = new Door();
  private readonly versions = new Versions();
  private readonly inodes = new Map<number, InodeMemory>();
  private threads = FIRST_THREAD;
  private readonly idle: number[] = [];
  /** What each thread does. */
  private readonly calls = new Map<number, SystemCallName>();
  /** As the machine's /proc tells of these threads. */
  readonly threadsOfMachine: Threads = {
    systemCall: (thread) => {
      const call = this.calls.get(thread);
      return call === undefined ? '' : callText(call);
    },
    textAt: () => '/a/path',
  };

  constructor(private readonly options: SimulatedKernelOptions) {
    this.door.told = {
      forget: (nodeid, offset, length) => {
        const inode = this.inodes.get(nodeid);
        if (inode === undefined) return false;
        inode.doubt();
        return offset < 0 ? true : inode.dropPages(offset, length).then(() => true);
      },
      disbelieve: async (nodeid, name, expireOnly) => {
        const directory = this.inodes.get(nodeid);
        if (directory === undefined) return false;
        const release = await directory.names.acquire();
        try {
          const known = directory.entries.get(name);
          if (known === undefined) return false;
          known.untilMs = 0;
          if (!expireOnly) directory.entries.delete(name);
          directory.doubtUntilTold();
          return true;
        } finally {
          release();
        }
      },
      store: (nodeid, offset, bytes) => {
        const inode = this.inodes.get(nodeid);
        inode?.store(offset, bytes);
        return inode !== undefined;
      },
    };
  }

  /** INIT, and the root. */
  async mount(init: Buffer): Promise<void> {
    demand('mount', await this.door.request('INIT', 0, init));
    const { attributes, validMs } = attributesIn(
      demand('mount', await this.door.request('GETATTR', ROOT_NODEID, getattr())),
    );
    const root = new InodeMemory(ROOT_NODEID, this.versions, attributes);
    root.learn(attributes, this.until(validMs), this.versions.current);
    this.inodes.set(ROOT_NODEID, root);
  }

  unmount(): void {
    this.door.unmount();
  }

  // ---- System calls -----------------------------------------------------------------------------

  stat(path: string): Promise<ToldAttributes> {
    return this.walking('stat', async (walk) => {
      const inode = await this.again(walk, (each) => this.find('stat', path, each));
      const told = inode.isBelieved(this.now) ? undefined : await this.askAttributes('stat', inode, walk.thread);
      return told ?? { ...inode.attributes, size: inode.size };
    });
  }

  /** fstat(2) */
  fstat({ inode, handle }: Descriptor): Promise<ToldAttributes> {
    return this.calling('fstat', async (thread) => {
      const told = inode.isBelieved(this.now) ? undefined : await this.askAttributes('fstat', inode, thread, handle);
      return told ?? { ...inode.attributes, size: inode.size };
    });
  }

  /** The names in a directory, and what is known of each by then: opendir(3) and readdir(3). */
  async list(path: string): Promise<string[]> {
    const { inode, handle } = await this.walking('open', async (walk) => {
      const directory = await this.find('open', path, walk);
      if (!directory.isBelieved(this.now)) await this.askAttributes('open', directory, walk.thread);
      const body = demand('open', await this.ask(walk.thread, 'OPENDIR', directory.nodeid, u32(0, 0)));
      return { inode: directory, handle: openIn(body).handle };
    });
    return this.calling('list', async (thread) => {
      const names: string[] = [];
      const release = await inode.names.acquire();
      try {
        for (let offset = 0; ;) {
          const asked = this.versions.current;
          const request = Buffer.concat([u64(handle, offset), u32(LISTING_BYTES, 0), u64(0), u32(0, 0)]);
          const body = demand('list', await this.ask(thread, 'READDIRPLUS', inode.nodeid, request));
          if (body.length === 0) break;
          for (const { name, next, entry } of listedIn(body)) {
            offset = next;
            if (entry.nodeid !== 0) this.learnEntry(inode, name, entry, asked);
            if (name !== '.' && name !== '..') names.push(name);
          }
        }
      } finally {
        release();
      }
      this.door.start('RELEASEDIR', inode.nodeid, Buffer.concat([u64(handle), u32(0, 0), u64(0)]), { pid: thread });
      return names;
    });
  }

  open(path: string, write = false): Promise<Descriptor> {
    return this.walking('open', async (walk) => {
      const inode = await this.find('open', path, walk);
      // Its mode decides whether it may be opened.
      if (!inode.isBelieved(this.now)) await this.askAttributes('open', inode, walk.thread);
      const body = demand('open', await this.ask(walk.thread, 'OPEN', inode.nodeid, u32(write ? O_RDWR : 0, 0)));
      return this.opened(inode, openIn(body));
    });
  }

  /** open(2) with O_CREAT and O_EXCL. */
  create(path: string): Promise<Descriptor> {
    return this.walking('create', async (walk) => {
      const { directory, name } = await this.parentOf('create', path, walk);
      const release = await directory.names.acquire();
      try {
        if ((await this.lookUpLocked('create', directory, name, walk, true)) !== undefined) {
          throw new SystemCallError('create', ERRNO.EEXIST);
        }
        await this.permit('create', directory, walk.thread);
        const asked = this.versions.current;
        const request = Buffer.concat([u32(O_RDWR | O_EXCL, 0o644, 0, 0), cstrings(name)]);
        const body = demand('create', await this.ask(walk.thread, 'CREATE', directory.nodeid, request));
        const inode = this.learnEntry(directory, name, entryIn(body), asked);
        directory.doubtUntilTold();
        return this.opened(inode, openIn(body, ENTRY_BYTES));
      } finally {
        release();
      }
    });
  }

  mkdir(path: string): Promise<void> {
    return this.walking('mkdir', async (walk) => {
      const { directory, name } = await this.again(walk, (each) => this.parentOf('mkdir', path, each));
      const release = await directory.names.acquire();
      try {
        if ((await this.lookUpLocked('mkdir', directory, name, walk, true)) !== undefined) {
          throw new SystemCallError('mkdir', ERRNO.EEXIST);
        }
        await this.permit('mkdir', directory, walk.thread);
        const asked = this.versions.current;
        const request = Buffer.concat([u32(0o755, 0), cstrings(name)]);
        const body = demand('mkdir', await this.ask(walk.thread, 'MKDIR', directory.nodeid, request));
        this.learnEntry(directory, name, entryIn(body), asked);
        directory.doubtUntilTold();
      } finally {
        release();
      }
    });
  }

  unlink(path: string): Promise<void> {
    return this.walking('unlink', async (walk) => {
      const { directory, name } = await this.again(walk, (each) => this.parentOf('unlink', path, each));
      const release = await directory.names.acquire();
      try {
        const inode = await this.lookUpLocked('unlink', directory, name, walk, false);
        if (inode === undefined) throw new SystemCallError('unlink', ERRNO.ENOENT);
        await this.permit('unlink', directory, walk.thread);
        const reply = await this.ask(walk.thread, 'UNLINK', directory.nodeid, cstrings(name));
        if (reply.error === 0) directory.doubtUntilTold();
        // What was removed is looked up again before it is believed to be missing.
        if (reply.error === 0 || reply.error === ERRNO.ENOENT) directory.entries.delete(name);
        demand('unlink', reply);
        inode.doubt();
      } finally {
        release();
      }
    });
  }

  /** rename(2) */
  rename(from: string, to: string): Promise<void> {
    return this.walking('rename', async (walk) => {
      const source = await this.again(walk, (each) => this.parentOf('rename', from, each));
      const target = await this.again(walk, (each) => this.parentOf('rename', to, each));
      const directories = [...new Set([source.directory, target.directory])].sort((a, b) => a.nodeid - b.nodeid);
      const releases: (() => void)[] = [];
      for (const { names } of directories) releases.push(await names.acquire());
      try {
        const inode = await this.lookUpLocked('rename', source.directory, source.name, walk, false);
        if (inode === undefined) throw new SystemCallError('rename', ERRNO.ENOENT);
        const replaced = await this.lookUpLocked('rename', target.directory, target.name, walk, true);
        for (const directory of directories) await this.permit('rename', directory, walk.thread);
        const moved = source.directory.entries.get(source.name);
        const request = Buffer.concat([u64(target.directory.nodeid), u32(0, 0), cstrings(source.name, target.name)]);
        demand('rename', await this.ask(walk.thread, 'RENAME2', source.directory.nodeid, request));
        source.directory.entries.delete(source.name);
        // It is believed for as long as by its old name.
        if (moved !== undefined) target.directory.entries.set(target.name, moved);
        for (const directory of directories) directory.doubtUntilTold();
        inode.doubt();
        replaced?.doubt();
      } finally {
        for (const release of releases) release();
      }
    });
  }

  /** pread(2) of up to `length` bytes. */
  async read(file: Descriptor, offset: number, length: number): Promise<Buffer> {
    const { inode, handle } = file;
    // What reaches past the end that is known makes the kernel ask where it is.
    if (offset + length > inode.size && !inode.isBelieved(this.now)) {
      await this.calling('fstat', (thread) => this.askAttributes('read', inode, thread, handle));
    }
    return this.sendfile(file, offset, length);
  }

  /** As sendfile(2) and splice(2) read, which go by the end that is known. */
  sendfile(file: Descriptor, offset: number, length: number): Promise<Buffer> {
    return this.calling('fstat', (thread) => this.readPages(file, offset, length, thread));
  }

  private async readPages(
    { inode, handle }: Descriptor,
    offset: number,
    length: number,
    thread: number,
  ): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for (let at = offset; at < Math.min(offset + length, inode.size);) {
      const index = Math.floor(at / PAGE_BYTES);
      const page = inode.page(index) ?? (await this.fill(inode, handle, index, thread));
      const start = at - index * PAGE_BYTES;
      const end = Math.min(PAGE_BYTES, offset + length - index * PAGE_BYTES, inode.size - index * PAGE_BYTES);
      if (end <= start) break;
      pieces.push(Buffer.from(page.subarray(start, end)));
      at += end - start;
    }
    return Buffer.concat(pieces);
  }

  /** pwrite(2). The mount is told before it returns; pages are written through. */
  write(file: Descriptor, offset: number, bytes: Buffer): Promise<void> {
    return this.calling('fstat', (thread) => this.writeBy(thread, file, offset, bytes));
  }

  private async writeBy(thread: number, { inode, handle }: Descriptor, offset: number, bytes: Buffer): Promise<void> {
    const release = await inode.names.acquire();
    try {
      const head = [u64(handle, offset), u32(bytes.length, 0), u64(0), u32(O_WRONLY, 0)];
      const body = demand('write', await this.ask(thread, 'WRITE', inode.nodeid, Buffer.concat([...head, bytes])));
      const count = body.readUInt32LE(0);
      inode.store(offset, bytes.subarray(0, count));
    } finally {
      release();
    }
  }

  /** The last close of a description: RELEASE is not waited for. */
  close(file: Descriptor): Promise<void> {
    return this.calling('fstat', (thread) => this.closeBy(thread, file));
  }

  private async closeBy(thread: number, { inode, handle }: Descriptor): Promise<void> {
    const flushed = await this.ask(thread, 'FLUSH', inode.nodeid, Buffer.concat([u64(handle), u32(0, 0), u64(0)]));
    this.door.start('RELEASE', inode.nodeid, Buffer.concat([u64(handle), u32(0, 0), u64(0)]), { pid: thread });
    demand('close', flushed);
  }

  // ---- Walks ------------------------------------------------------------------------------------

  /** One system call by path, made twice when it is told ESTALE: the second time every name is asked for. */
  private walking<T>(name: SystemCallName, call: (walk: Walk) => Promise<T>): Promise<T> {
    return this.calling(name, (thread) => this.again({ thread, isSecond: false }, call));
  }

  /** A walk within a call that is made twice is made twice each time. */
  private async again<T>(walk: Walk, work: (walk: Walk) => Promise<T>): Promise<T> {
    try {
      return await work(walk);
    } catch (error) {
      if (!(error instanceof SystemCallError) || error.errno !== ERRNO.ESTALE) throw error;
      return work({ ...walk, isSecond: true });
    }
  }

  /** Runs a system call in a thread that makes no other one. */
  private async calling<T>(name: SystemCallName, call: (thread: number) => Promise<T>): Promise<T> {
    const thread = this.idle.pop() ?? this.threads++;
    this.calls.set(thread, name);
    try {
      return await call(thread);
    } finally {
      this.calls.delete(thread);
      this.idle.push(thread);
    }
  }

  private async find(call: string, path: string, walk: Walk): Promise<InodeMemory> {
    const { directory, name } = await this.parentOf(call, path, walk);
    const inode = await this.step(call, directory, name, walk);
    if (inode === undefined) throw new SystemCallError(call, ERRNO.ENOENT);
    return inode;
  }

  private async parentOf(call: string, path: string, walk: Walk): Promise<{ directory: InodeMemory; name: string }> {
    const names = path.split('/').filter((name) => name !== '');
    const name = names.pop();
    let directory = this.inodes.get(ROOT_NODEID);
    if (name === undefined || directory === undefined) throw new SystemCallError(call, ERRNO.ENOENT);
    for (const each of names) {
      await this.permit(call, directory, walk.thread);
      directory = await this.step(call, directory, each, walk);
      if (directory === undefined) throw new SystemCallError(call, ERRNO.ENOENT);
    }
    await this.permit(call, directory, walk.thread);
    return { directory, name };
  }

  /** With `default_permissions` the mode of a directory decides whether one may pass, or change names in it. */
  private async permit(call: string, directory: InodeMemory, thread: number): Promise<void> {
    if (!directory.isBelieved(this.now)) await this.askAttributes(call, directory, thread);
  }

  /** One name of a path; undefined when there is none. The directory is held while a name that is not known is looked up. */
  private async step(call: string, directory: InodeMemory, name: string, walk: Walk): Promise<InodeMemory | undefined> {
    const known = await this.remembered(directory, name, walk, walk.isSecond);
    if (known !== 'unknown') return known;
    const release = await directory.names.acquire();
    try {
      return await this.lookUpLocked(call, directory, name, walk, walk.isSecond);
    } finally {
      release();
    }
  }

  /** By who holds the directory. `isAsked`: what is remembered does not count. */
  private async lookUpLocked(
    call: string,
    directory: InodeMemory,
    name: string,
    walk: Walk,
    isAsked: boolean,
  ): Promise<InodeMemory | undefined> {
    const known = await this.remembered(directory, name, walk, isAsked || walk.isSecond);
    return known === 'unknown' ? this.lookUp(call, directory, name, walk.thread) : known;
  }

  /** What is remembered of a name, which is asked about when it is not believed: what leads to an inode once, the rest not at all. */
  private async remembered(
    directory: InodeMemory,
    name: string,
    { thread }: Walk,
    isAsked: boolean,
  ): Promise<InodeMemory | undefined | 'unknown'> {
    const known = directory.entries.get(name);
    if (known === undefined) return 'unknown';
    if (!isAsked && this.now < known.untilMs) {
      return known.nodeid === 0 ? undefined : this.inodes.get(known.nodeid);
    }
    const forget = (): 'unknown' => {
      if (directory.entries.get(name) === known) directory.entries.delete(name);
      return 'unknown';
    };
    const inode = this.inodes.get(known.nodeid);
    if (inode === undefined) return forget();
    const asked = this.versions.current;
    const reply = await this.ask(thread, 'LOOKUP', directory.nodeid, cstrings(name));
    if (reply.error !== 0) return forget();
    const entry = entryIn(reply.body);
    if (entry.nodeid !== known.nodeid) return forget();
    inode.learn(entry.attributes, this.until(entry.validMs), asked);
    known.untilMs = this.until(entry.entryValidMs);
    return inode;
  }

  private async lookUp(
    call: string,
    directory: InodeMemory,
    name: string,
    thread: number,
  ): Promise<InodeMemory | undefined> {
    const asked = this.versions.current;
    const reply = await this.ask(thread, 'LOOKUP', directory.nodeid, cstrings(name));
    if (reply.error === ERRNO.ENOENT) {
      directory.entries.set(name, { nodeid: 0, untilMs: 0 });
      return undefined;
    }
    const entry = entryIn(demand(call, reply));
    if (entry.nodeid !== 0) return this.learnEntry(directory, name, entry, asked);
    directory.entries.set(name, { nodeid: 0, untilMs: this.until(entry.entryValidMs) });
    return undefined;
  }

  private learnEntry(directory: InodeMemory, name: string, entry: EntryAnswer, asked: number): InodeMemory {
    let inode = this.inodes.get(entry.nodeid);
    if (inode === undefined) {
      inode = new InodeMemory(entry.nodeid, this.versions, entry.attributes);
      this.inodes.set(entry.nodeid, inode);
      inode.learn(entry.attributes, this.until(entry.validMs), this.versions.current);
    } else inode.learn(entry.attributes, this.until(entry.validMs), asked);
    const known = directory.entries.get(name);
    const untilMs = this.until(entry.entryValidMs);
    if (known?.nodeid === entry.nodeid) known.untilMs = untilMs;
    else directory.entries.set(name, { nodeid: entry.nodeid, untilMs });
    return inode;
  }

  // ---- Requests ---------------------------------------------------------------------------------

  /** Returns what the answer says, which may not be what the kernel goes by then. */
  private async askAttributes(
    call: string,
    inode: InodeMemory,
    thread: number,
    handle?: number,
  ): Promise<ToldAttributes> {
    const asked = this.versions.current;
    const reply = await this.ask(thread, 'GETATTR', inode.nodeid, getattr(handle));
    const { attributes, validMs } = attributesIn(demand(call, reply));
    inode.learn(attributes, this.until(validMs), asked);
    return attributes;
  }

  private opened(inode: InodeMemory, { handle, flags }: { handle: number; flags: number }): Descriptor {
    if ((flags & FOPEN_KEEP_CACHE) === 0) inode.dropPagesNow(0, 0);
    return { inode, handle };
  }

  private fill(inode: InodeMemory, handle: number, index: number, thread: number): Promise<Buffer> {
    return inode.fill(index, async () => {
      const asked = this.versions.current;
      const request = Buffer.concat([u64(handle, index * PAGE_BYTES), u32(PAGE_BYTES, 0), u64(0), u32(0, 0)]);
      const bytes = demand('read', await this.ask(thread, 'READ', inode.nodeid, request));
      const page = Buffer.alloc(PAGE_BYTES);
      bytes.copy(page);
      if (bytes.length < PAGE_BYTES) inode.endedAt(index * PAGE_BYTES + bytes.length, asked);
      return page;
    });
  }

  private async ask(thread: number, opcode: Opcode, nodeid: number, body: Buffer): Promise<FakeReply> {
    const reply = await this.door.request(opcode, nodeid, body, { pid: thread });
    await this.options.wake();
    return reply;
  }

  private get now(): number {
    return this.options.clock.monotonicMs();
  }

  private until(validMs: number): number {
    return validMs === 0 ? 0 : this.now + validMs;
  }
}

/** fuse_getattr_in */
const getattr = (handle?: number): Buffer =>
  handle === undefined ? Buffer.concat([u32(0, 0), u64(0)]) : Buffer.concat([u32(1, 0), u64(handle)]);
