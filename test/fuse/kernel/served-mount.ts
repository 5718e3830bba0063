/** A mount of the kernel driver that is served to a fake kernel from a model of a file system, or from any other. */
import type { Test } from 'tap';
import { SystemClock } from '../../../src/core/clock.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { FileSystem } from '../../../src/filesystem/filesystem.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { ServedMount } from '../../../src/fuse/kernel/driver.js';
import { cstrings, FakeKernel, u32, u64 } from '../../support/fakes/fake-kernel.js';
import type { FakeReply } from '../../support/fakes/fake-kernel.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_EXCL = 0o200;
export const O_APPEND = 0o2000;
export const O_DSYNC = 0o10000;
export const O_DIRECT = 0o40000;

const F_RDLCK = 0;
const HANDLE_KILLPRIV_V2 = 1 << 28;

export class TestMount {
  private constructor(
    readonly kernel: FakeKernel,
    readonly served: ServedMount,
    readonly ended: Promise<void>,
    /** Thread that makes the requests of the methods below; 0 when it cannot be told. */
    private readonly pid: number,
  ) {}

  static async start(
    t: Pick<Test, 'teardown'>,
    fileSystem: FileSystem = new ModelFileSystem(),
    options: { readonly attributeTimeoutMs?: number; readonly killsByItself?: boolean; readonly pid?: number } = {},
  ): Promise<TestMount> {
    const kernel = new FakeKernel();
    const served = new ServedMount(kernel, {
      ...{ fileSystem, credentials: ROOT_CREDENTIALS, logger: silentLogger, clock: new SystemClock() },
      ...{ root: ROOT_INODE, kernelChecks: true },
      ...{ attributeTimeoutMs: options.attributeTimeoutMs ?? 0, entryTimeoutMs: 1500 },
    });
    const mount = new TestMount(kernel, served, served.connection.serve(), options.pid ?? 0);
    t.teardown(() => kernel.unmount());
    const { error } = await kernel.request(
      'INIT',
      0,
      initBody(45, options.killsByItself === true ? ~HANDLE_KILLPRIV_V2 >>> 0 : undefined),
    );
    if (error !== 0) throw new Error(`INIT gave ${error}`);
    return mount;
  }

  /** Makes a file in the root; its nodeid and handle. */
  async create(name: string | Buffer, flags = O_RDWR, mode = 0o644): Promise<{ nodeid: number; handle: number }> {
    const body = Buffer.concat([u32(flags, mode, 0, 0), cstrings(name)]);
    const reply = await this.kernel.request('CREATE', 1, body, { pid: this.pid });
    return { nodeid: number64(must(reply), 0), handle: number64(reply.body, 128) };
  }

  /** `fileFlags`: those of the handle, as they are now. */
  async write(handle: number, offset: number, text: string, writeFlags = 0, fileFlags = 0): Promise<FakeReply> {
    const bytes = Buffer.from(text);
    const head = [u64(handle, offset), u32(bytes.length, writeFlags), u64(0), u32(fileFlags, 0)];
    return this.kernel.request('WRITE', 0, Buffer.concat([...head, bytes]), { pid: this.pid });
  }

  async read(handle: number, offset: number, size: number, readFlags = 0): Promise<string> {
    const body = Buffer.concat([u64(handle, offset), u32(size, readFlags), u64(0), u32(0, 0)]);
    return must(await this.kernel.request('READ', 0, body, { pid: this.pid })).toString();
  }

  /** Its nodeid, handle and the flags of the reply. */
  async open(nodeid: number, flags = O_RDWR): Promise<{ handle: number; openFlags: number }> {
    const body = must(await this.kernel.request('OPEN', nodeid, u32(flags, 0), { pid: this.pid }));
    return { handle: number64(body, 0), openFlags: body.readUInt32LE(8) };
  }

  async flush(handle: number): Promise<void> {
    must(await this.kernel.request('FLUSH', 0, Buffer.concat([u64(handle), u32(0, 0), u64(0)])));
  }

  /** As close(2) of the only descriptor. */
  async close(handle: number): Promise<void> {
    await this.flush(handle);
    await this.release(handle);
  }

  /** A read lock of fcntl(2) on all of the file. */
  lock(handle: number, owner: number): Promise<FakeReply> {
    const body = Buffer.concat([u64(handle, owner, 0, Number.MAX_SAFE_INTEGER), u32(F_RDLCK, 1, 0, 0)]);
    return this.kernel.request('SETLK', 0, body, { pid: this.pid });
  }

  async release(handle: number): Promise<void> {
    must(await this.kernel.request('RELEASE', 0, Buffer.concat([u64(handle), u32(0, 0), u64(0)])));
  }
}

/** As Linux 6.18 sends it: everything is offered. */
export function initBody(minor = 45, flags = 0xffffffff, flags2 = 0xffffffff): Buffer {
  return Buffer.concat([u32(7, minor, 131072, flags, flags2), Buffer.alloc(44)]);
}

export function must(reply: FakeReply): Buffer {
  if (reply.error !== 0) throw new Error(`the request failed with errno ${reply.error}`);
  return reply.body;
}

export const number64 = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64LE(at));
