/** How requests come and go: many at a time, interrupted, in nobody's interest, malformed, and the end of it all. */
import t from 'tap';
import { setImmediate as immediate, setTimeout as pause } from 'node:timers/promises';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { Connection } from '../../../src/fuse/kernel/wire/connection.js';
import type { Answer } from '../../../src/fuse/kernel/wire/request.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';
import { MAX_KERNEL_REQUESTS } from '../../../src/core/limits.js';
import { deferred } from '../../../src/core/sync.js';
import type { Attributes, LockRequest } from '../../../src/filesystem/filesystem.js';
import type { InodeId } from '../../../src/core/ids.js';
import { CairnError } from '../../../src/core/errors.js';
import { OPCODES } from '../../../src/fuse/kernel/wire/protocol.js';
import type { Opcode } from '../../../src/fuse/kernel/wire/protocol.js';
import { cstrings, FakeKernel, requestBytes, u32, u64 } from '../../support/fakes/fake-kernel.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { seededRandom } from '../../support/seed.js';
import { must, number64, O_RDWR, TestMount } from './served-mount.js';

const ENOENT = 2;
const EINTR = 4;
const EAGAIN = 11;
const EINVAL = 22;
const ENOSYS = 38;

/** Attributes and locks come when the test lets them. */
class SlowFileSystem extends ModelFileSystem {
  readonly gate = deferred<void>();
  asked = 0;

  override async getAttributes(inode: InodeId): Promise<Attributes> {
    this.asked++;
    await this.gate.promise;
    return super.getAttributes(inode);
  }

  override async setLock(
    _inode: InodeId,
    _request: LockRequest,
    { signal }: { readonly wait: boolean; readonly signal?: AbortSignal },
  ): Promise<void> {
    const aborted = deferred<never>();
    signal?.addEventListener('abort', () => aborted.reject(new CairnError('EINTR', 'aborted')));
    await aborted.promise;
  }
}

t.test('a slow request holds up no other', async (t) => {
  const fileSystem = new SlowFileSystem();
  const { kernel } = await TestMount.start(t, fileSystem);
  const slow = kernel.request('GETATTR', 1, u32(0, 0, 0, 0));
  t.equal((await kernel.request('LOOKUP', 1, cstrings('missing'))).error, ENOENT);
  t.ok(await kernel.request('STATFS', 1));
  fileSystem.gate.resolve();
  t.equal((await slow).error, 0);
});

t.test('P8: so many requests are in work, and no more are read', async (t) => {
  const fileSystem = new SlowFileSystem();
  const { kernel } = await TestMount.start(t, fileSystem);
  const all = Array.from({ length: MAX_KERNEL_REQUESTS + 50 }, () => kernel.request('GETATTR', 1, u32(0, 0, 0, 0)));
  await pause(50);
  t.ok(fileSystem.asked <= MAX_KERNEL_REQUESTS + 2, `${fileSystem.asked} in work`);
  t.ok(kernel.unread >= 48);
  fileSystem.gate.resolve();
  for (const reply of await Promise.all(all)) t.equal(reply.error, 0);
});

t.test('a wait for a lock ends with INTERRUPT, and does not count as work', async (t) => {
  const fileSystem = new SlowFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel } = mount;
  const { handle } = await mount.create('f');
  const lock = Buffer.concat([u64(handle, 77n), u64(0, 2n ** 63n - 1n), u32(1, 5, 0, 0)]);
  const waits = Array.from({ length: MAX_KERNEL_REQUESTS + 10 }, () => kernel.start('SETLKW', 0, lock));
  t.equal((await kernel.request('LOOKUP', 1, cstrings('missing'))).error, ENOENT, 'others get through');
  for (const { unique } of waits) void kernel.interrupt(unique);
  for (const { reply } of waits) t.equal((await reply).error, EINTR);
});

t.test('INTERRUPT of a request that is not known (yet) is EAGAIN, so that it comes again; never ENOSYS', async (t) => {
  const { kernel } = await TestMount.start(t);
  t.equal((await kernel.interrupt(1_000_000)).error, EAGAIN);
});

t.test('an answer that nobody takes gives back what only the kernel could have given back', async (t) => {
  const fileSystem = new ModelFileSystem();
  const mount = await TestMount.start(t, fileSystem);
  const { kernel, served } = mount;
  const { nodeid, handle } = await mount.create('f');
  await mount.release(handle);
  t.equal(served.files.size, 0);
  t.equal(served.nodes.size, 1);
  for (const [opcode, body] of [
    ['OPEN', u32(O_RDWR, 0)],
    ['CREATE', Buffer.concat([u32(O_RDWR, 0o644, 0, 0), cstrings('g')])],
    ['LOOKUP', cstrings('f')],
  ] as const) {
    const { unique } = kernel.start(opcode, opcode === 'OPEN' ? nodeid : 1, body);
    kernel.abandon(unique);
  }
  await pause(20);
  t.equal(served.files.size, 0, 'the files are closed');
  t.equal(served.nodes.size, 1, 'the inodes are forgotten');
});

t.test('what is not known is ENOSYS', async (t) => {
  const { kernel } = await TestMount.start(t);
  kernel.deliver(requestBytes(4000, 6, 1, Buffer.alloc(8), {}));
  await pause(10);
  t.same(kernel.strayReplies, [Buffer.concat([u32(16, -ENOSYS), u64(6)])]);
});

t.test('reads that fail for a moment are tried again; ENODEV ends it', async (t) => {
  const { kernel, ended } = await TestMount.start(t);
  for (const code of ['ENOENT', 'EINTR', 'EAGAIN', 'EPERM']) {
    kernel.failRead(code);
    await pause(10);
    t.equal(kernel.parkedReads, 2, code);
  }
  kernel.unmount();
  await ended;
  t.ok(kernel.isClosed);
});

t.test('unmounted with work in flight: it ends, and late answers do no harm', async (t) => {
  const fileSystem = new SlowFileSystem();
  const { kernel, ended } = await TestMount.start(t, fileSystem);
  void kernel.request('GETATTR', 1, u32(0, 0, 0, 0));
  await pause(5);
  kernel.unmount();
  await ended;
  fileSystem.gate.resolve();
  await pause(5);
  t.equal(kernel.sentAfterClose, 0);
});

t.test('a request that ends early is EINVAL, and does no other harm', async (t) => {
  const mount = await TestMount.start(t);
  const { kernel } = mount;
  const { handle } = await mount.create('f');
  const directory = number64(must(await kernel.request('OPENDIR', 1, u32(0, 0))), 0);
  /** A whole one of each kind; those without a body are not here. */
  const whole: Partial<Record<Opcode, Buffer>> = {
    LOOKUP: cstrings('f'),
    GETATTR: Buffer.concat([u32(1, 0), u64(handle)]),
    SETATTR: Buffer.alloc(88),
    SYMLINK: cstrings('s', 'target'),
    MKNOD: Buffer.concat([u32(0o100644, 0, 0, 0), cstrings('n')]),
    MKDIR: Buffer.concat([u32(0o755, 0), cstrings('d')]),
    UNLINK: cstrings('gone'),
    RMDIR: cstrings('gone'),
    RENAME: Buffer.concat([u64(1), cstrings('a', 'b')]),
    RENAME2: Buffer.concat([u64(1), u32(0, 0), cstrings('a', 'b')]),
    LINK: Buffer.concat([u64(1), cstrings('l')]),
    OPEN: u32(0, 0),
    READ: Buffer.concat([u64(handle, 0), u32(1, 0)]),
    WRITE: Buffer.concat([u64(handle, 0), u32(3, 0), u64(0), u32(0, 0), Buffer.from('abc')]),
    FSYNC: Buffer.concat([u64(handle), u32(0, 0)]),
    SETXATTR: Buffer.concat([u32(3, 0, 0, 0), cstrings('user.x'), Buffer.from('abc')]),
    GETXATTR: Buffer.concat([u32(3, 0), cstrings('user.x')]),
    LISTXATTR: u32(3, 0),
    REMOVEXATTR: cstrings('user.y'),
    FLUSH: Buffer.concat([u64(handle), u32(0, 0), u64(0)]),
    READDIR: Buffer.concat([u64(directory, 0), u32(100, 0)]),
    GETLK: Buffer.concat([u64(handle, 1, 0, 1), u32(0, 0, 0, 0)]),
    CREATE: Buffer.concat([u32(O_RDWR, 0o644, 0, 0), cstrings('c')]),
    FALLOCATE: Buffer.concat([u64(handle, 0, 1), u32(0, 0)]),
    LSEEK: Buffer.concat([u64(handle, 0), u32(3, 0)]),
    COPY_FILE_RANGE: u64(handle, 0, 1, handle, 5, 1, 0),
    ACCESS: u32(4, 0),
  };
  // Trailing padding may be cut off without harm.
  const padding: Partial<Record<Opcode, number>> = { ...{ SETATTR: 4, OPEN: 4, FSYNC: 8, READDIR: 4, LISTXATTR: 4 } };
  Object.assign(padding, { GETLK: 4, FALLOCATE: 4, LSEEK: 4, ACCESS: 4, READ: 4, COPY_FILE_RANGE: 8, GETATTR: 0 });
  for (const [name, body] of Object.entries(whole) as [Opcode, Buffer][]) {
    for (let length = 0; length < body.length - (padding[name] ?? 0); length++) {
      const { error } = await kernel.request(name, 1, Buffer.from(body.subarray(0, length)));
      t.equal(error, EINVAL, `${name} cut to ${length} of ${body.length} bytes`);
    }
  }
  t.equal(must(await kernel.request('GETATTR', 1, u32(0, 0, 0, 0))).length, 104, 'and all goes on');
});

t.test('any bytes: each request is answered, and all goes on', async (t) => {
  const random = seededRandom(t);
  const { kernel } = await TestMount.start(t);
  const opcodes = Object.values(OPCODES).filter((opcode) => opcode !== OPCODES.INIT && opcode !== OPCODES.SETLKW);
  for (let i = 0; i < 2000; i++) {
    const body = Buffer.from(
      Array.from({ length: random.below(120) }, () => (random.below(3) === 0 ? random.below(256) : 0)),
    );
    const opcode = opcodes[random.below(opcodes.length)] ?? 1;
    kernel.deliver(requestBytes(opcode, 1_000_000 + 2 * i, random.below(4), body, {}));
  }
  for (let i = 0; i < 50; i++) {
    kernel.deliver(Buffer.from(Array.from({ length: random.below(100) }, () => random.below(256))));
  }
  t.equal(must(await kernel.request('GETATTR', 1, u32(0, 0, 0, 0))).length, 104);
});

t.test(
  'a caller that handles a signal and is killed afterwards is let go, of which the kernel does not tell',
  async (t) => {
    const kernel = new FakeKernel();
    const clock = new ManualClock();
    const advance = async (ms: number): Promise<void> => {
      for (let passed = 0; passed < ms; passed += 50) {
        clock.advance(50);
        await immediate();
      }
    };
    const dying = new Set<number>();
    let looks = 0;
    const hung = deferred<Answer>();
    let undone = 0;
    const connection = new Connection({
      ...{ device: kernel, bufferBytes: 8192, logger: silentLogger, clock, waiting: new Set<Opcode>(['SETLKW']) },
      handlers: {
        GETATTR: () => hung.promise,
        SETLKW: (request) => {
          request.interrupted();
          return hung.promise;
        },
      },
      onStale: () => undefined,
      isDying: (pid) => {
        looks++;
        return dying.has(pid);
      },
    });
    const ended = connection.serve();
    const [one, two, three] = [
      kernel.start('GETATTR', 1, Buffer.alloc(16), { pid: 1 }),
      kernel.start('GETATTR', 1, Buffer.alloc(16), { pid: 2 }),
      kernel.start('SETLKW', 1, Buffer.alloc(16), { pid: 3 }),
    ];
    const ends: string[] = [];
    for (const [name, { reply }] of Object.entries({ one, two, three })) {
      void reply.then(({ error }) => ends.push(`${name} ${error}`));
    }
    await immediate();
    for (const { unique } of [one, three]) void kernel.interrupt(unique);
    await advance(1_000);
    t.same(ends, [], 'signals that are handled do not end calls on files');
    for (const pid of [1, 2, 3]) dying.add(pid);
    await advance(250);
    t.same(ends.sort(), [`one ${EINTR}`, `three ${EINTR}`]);
    hung.resolve({ parts: [], undo: () => undone++ });
    await immediate();
    t.equal(undone, 2, 'what nobody took is undone');
    t.equal(ends.length, 3);
    await advance(1_000);
    const before = looks;
    await advance(1_000);
    t.equal(looks, before, 'nobody is watched any more');
    kernel.unmount();
    await ended;
  },
);
