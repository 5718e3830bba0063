/**
 * A model of the kernel over one mount, for the simulator: programs make system calls, and the model answers from what it remembers or
 * asks the mount, as Linux 6.18 does (fs/namei.c, fs/fuse). Its parts:
 *
 *   door.ts           the descriptor
 *   inode-memory.ts   what is kept of an inode: attributes, pages, entries
 *   this file         walks along paths, and calls
 *
 * Left out: permissions but for the look at each directory that they need, links, mappings, O_DIRECT, readahead, memory that runs short.
 * The caller of each request is a thread of its own that exists on no machine.
 */
import type { Clock } from '../../../src/core/clock.js';
import { FOPEN_KEEP_CACHE } from '../../../src/fuse/kernel/wire/protocol.js';
import type { Opcode } from '../../../src/fuse/kernel/wire/protocol.js';
import { cstrings, u32, u64 } from '../../support/fakes/fake-kernel.js';
import type { FakeReply } from '../../support/fakes/fake-kernel.js';
import { attributesIn, demand, ENTRY_BYTES, entryIn, ERRNO, openIn, SystemCallError } from './answers.js';
import type { EntryAnswer } from './answers.js';
import { Door } from './door.js';
import { InodeMemory, PAGE_BYTES, Versions } from './inode-memory.js';
import type { ToldAttributes } from './inode-memory.js';

const ROOT_NODEID = 1;
const O_WRONLY = 1;
const O_RDWR = 2;
const O_EXCL = 0o200;
/** No thread of this machine has such a number. */
const FIRST_THREAD = 2 ** 30;

/** An open file of a program. */
export interface Descriptor {
  readonly inode: InodeMemory;
  readonly handle: number;
}

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

  constructor(private readonly options: SimulatedKernelOptions) {
    this.door.told = {
      forget: (nodeid, offset, length) => {
        const inode = this.inodes.get(nodeid);
        if (inode === undefined) return false;
        inode.doubt();
        return offset < 0 ? true : inode.dropPages(offset, length).then(() => true);
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
    return this.walking(async (walk) => {
      const inode = await this.find('stat', path, walk);
      if (!inode.isBelieved(this.now)) await this.askAttributes('stat', inode, walk.thread);
      return { ...inode.attributes, size: inode.size };
    });
  }

  open(path: string, write = false): Promise<Descriptor> {
    return this.walking(async (walk) => {
      const inode = await this.find('open', path, walk);
      // Its mode decides whether it may be opened.
      if (!inode.isBelieved(this.now)) await this.askAttributes('open', inode, walk.thread);
      const body = demand('open', await this.ask(walk.thread, 'OPEN', inode.nodeid, u32(write ? O_RDWR : 0, 0)));
      return this.opened(inode, openIn(body));
    });
  }

  /** open(2) with O_CREAT and O_EXCL. */
  create(path: string): Promise<Descriptor> {
    return this.walking(async (walk) => {
      const { directory, name } = await this.parentOf('create', path, walk);
      const release = await directory.names.acquire();
      try {
        if ((await this.step('create', directory, name, walk)) !== undefined) {
          throw new SystemCallError('create', ERRNO.EEXIST);
        }
        const asked = this.versions.current;
        const request = Buffer.concat([u32(O_RDWR | O_EXCL, 0o644, 0, 0), cstrings(name)]);
        const body = demand('create', await this.ask(walk.thread, 'CREATE', directory.nodeid, request));
        const inode = this.learnEntry(directory, name, entryIn(body), asked);
        directory.doubt();
        return this.opened(inode, openIn(body, ENTRY_BYTES));
      } finally {
        release();
      }
    });
  }

  mkdir(path: string): Promise<void> {
    return this.walking(async (walk) => {
      const { directory, name } = await this.parentOf('mkdir', path, walk);
      const release = await directory.names.acquire();
      try {
        if ((await this.step('mkdir', directory, name, walk)) !== undefined) {
          throw new SystemCallError('mkdir', ERRNO.EEXIST);
        }
        const asked = this.versions.current;
        const request = Buffer.concat([u32(0o755, 0), cstrings(name)]);
        const body = demand('mkdir', await this.ask(walk.thread, 'MKDIR', directory.nodeid, request));
        this.learnEntry(directory, name, entryIn(body), asked);
        directory.doubt();
      } finally {
        release();
      }
    });
  }

  unlink(path: string): Promise<void> {
    return this.walking(async (walk) => {
      const { directory, name } = await this.parentOf('unlink', path, walk);
      const release = await directory.names.acquire();
      try {
        const inode = await this.step('unlink', directory, name, walk);
        if (inode === undefined) throw new SystemCallError('unlink', ERRNO.ENOENT);
        const reply = await this.ask(walk.thread, 'UNLINK', directory.nodeid, cstrings(name));
        if (reply.error === 0) directory.doubt();
        // What was removed is looked up again before it is believed to be missing.
        if (reply.error === 0 || reply.error === ERRNO.ENOENT) directory.entries.delete(name);
        demand('unlink', reply);
        inode.doubt();
      } finally {
        release();
      }
    });
  }

  /** rename(2) within one directory. */
  rename(from: string, to: string): Promise<void> {
    return this.walking(async (walk) => {
      const { directory, name } = await this.parentOf('rename', from, walk);
      const target = (await this.parentOf('rename', to, walk)).name;
      const release = await directory.names.acquire();
      try {
        const inode = await this.step('rename', directory, name, walk);
        if (inode === undefined) throw new SystemCallError('rename', ERRNO.ENOENT);
        // A target is always asked for.
        const replaced = await this.step('rename', directory, target, { ...walk, isSecond: true });
        const request = Buffer.concat([u64(directory.nodeid), u32(0, 0), cstrings(name, target)]);
        demand('rename', await this.ask(walk.thread, 'RENAME2', directory.nodeid, request));
        directory.entries.delete(name);
        directory.entries.set(target, { nodeid: inode.nodeid, untilMs: 0 });
        directory.doubt();
        inode.doubt();
        replaced?.doubt();
      } finally {
        release();
      }
    });
  }

  /** pread(2) of up to `length` bytes. */
  async read(file: Descriptor, offset: number, length: number): Promise<Buffer> {
    const { inode, handle } = file;
    // What reaches past the end that is known makes the kernel ask where it is.
    if (offset + length > inode.size && !inode.isBelieved(this.now)) {
      await this.askAttributes('read', inode, this.thread(), handle);
    }
    return this.sendfile(file, offset, length);
  }

  /** As sendfile(2) and splice(2) read, which go by the end that is known. */
  async sendfile({ inode, handle }: Descriptor, offset: number, length: number): Promise<Buffer> {
    const thread = this.thread();
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
  async write({ inode, handle }: Descriptor, offset: number, bytes: Buffer): Promise<void> {
    const thread = this.thread();
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
  async close({ inode, handle }: Descriptor): Promise<void> {
    const thread = this.thread();
    const flushed = await this.ask(thread, 'FLUSH', inode.nodeid, Buffer.concat([u64(handle), u32(0, 0), u64(0)]));
    this.door.start('RELEASE', inode.nodeid, Buffer.concat([u64(handle), u32(0, 0), u64(0)]), { pid: thread });
    demand('close', flushed);
  }

  // ---- Walks ------------------------------------------------------------------------------------

  /** One system call by path, made twice when it is told ESTALE: the second time every name is asked for. */
  private async walking<T>(call: (walk: Walk) => Promise<T>): Promise<T> {
    const thread = this.thread();
    try {
      return await call({ thread, isSecond: false });
    } catch (error) {
      if (!(error instanceof SystemCallError) || error.errno !== ERRNO.ESTALE) throw error;
      return call({ thread, isSecond: true });
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
      directory = await this.step(call, directory, each, walk);
      if (directory === undefined) throw new SystemCallError(call, ERRNO.ENOENT);
    }
    return { directory, name };
  }

  /** One name of a path; undefined when there is none. */
  private async step(
    call: string,
    directory: InodeMemory,
    name: string,
    { thread, isSecond }: Walk,
  ): Promise<InodeMemory | undefined> {
    // With `default_permissions` its mode decides whether one may pass.
    if (!directory.isBelieved(this.now)) await this.askAttributes(call, directory, thread);
    const known = directory.entries.get(name);
    if (known !== undefined && !isSecond && this.now < known.untilMs) {
      return known.nodeid === 0 ? undefined : this.inodes.get(known.nodeid);
    }
    // What leads to an inode is asked about once, and looked up anew when that is not the answer; a missing name is looked up.
    if (known !== undefined && known.nodeid !== 0) {
      const revalidated = await this.lookUp(call, directory, name, thread);
      if (revalidated?.nodeid === known.nodeid) return revalidated;
      directory.entries.delete(name);
    }
    return this.lookUp(call, directory, name, thread);
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
    directory.entries.set(name, { nodeid: entry.nodeid, untilMs: this.until(entry.entryValidMs) });
    return inode;
  }

  // ---- Requests ---------------------------------------------------------------------------------

  private async askAttributes(call: string, inode: InodeMemory, thread: number, handle?: number): Promise<void> {
    const asked = this.versions.current;
    const reply = await this.ask(thread, 'GETATTR', inode.nodeid, getattr(handle));
    const { attributes, validMs } = attributesIn(demand(call, reply));
    inode.learn(attributes, this.until(validMs), asked);
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

  private thread(): number {
    return this.threads++;
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
