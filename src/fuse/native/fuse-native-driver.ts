/**
 * The driver on fuse-native 2.2.6, which is libfuse 2.9's high-level interface: paths in, one thread of libfuse waiting for each
 * answer. This file decodes its arguments, encodes its answers, and holds the workarounds that need its internals:
 *
 * - It answers through `_op_*` methods with "signals"; the public operations would lose what the kernel asked (fgetattr by
 *   handle, the size that getxattr has room for, a link count of 0). So those methods are overridden here, all of them.
 * - utimens passes atime twice. The true mtime stands in the thread's state (`fuse_thread_locals_t`), which is a Buffer.
 * - Options that it does not know go through `fsname`, which it joins unescaped.
 * - It does not tell that the kernel has unmounted: then libfuse closes /dev/fuse, which is looked for.
 *
 * docs/fuse-native.md says what cannot be worked around.
 */
import Fuse from 'fuse-native';
import type { Signal } from 'fuse-native';
import { CairnError, POSIX_ERRORS } from '../../core/errors.js';
import type { Logger } from '../../core/logging/logger.js';
import { watched } from '../../core/sync.js';
import type { Driver, DriverOptions, Mounted } from '../driver.js';
import { errnoOf } from '../fault.js';
import { connectionClosed, fuseDescriptors } from './fuse-connection.js';
import { unmountPath } from '../mountpoint.js';
import { fromMs, listingWords, noStatvfsWords, noStatWords, statvfsWords, statWords, toMs } from './native-encoding.js';
import { PathOperations } from './path-operations.js';

const OP_UTIMENS = 12;
/** Of `size_t atime, mtime` in fuse_thread_locals_t, where pointers have 8 bytes. */
const ATIME_OFFSET = 104;
const MTIME_OFFSET = 112;
const WORD = 2 ** 32;
/** libfuse takes others for its own and fails. They are about atime, which the client keeps. */
const LIBFUSE_FLAGS = new Set('rw ro suid nosuid dev nodev exec noexec async sync atime noatime dirsync'.split(' '));
const IMPLEMENTED =
  'access statfs fgetattr getattr flush fsync fsyncdir readdir truncate ftruncate utimens readlink chown chmod mknod ' +
  'setxattr getxattr listxattr removexattr open read write release create unlink rename link symlink mkdir rmdir';

export class FuseNativeDriver implements Driver {
  constructor(private readonly options: DriverOptions) {}

  async mount(): Promise<Mounted> {
    const { options } = this;
    const operations = new PathOperations(options.fileSystem, options.credentials, {
      root: options.root,
      callersUnknown: options.allowOther,
      toMs,
    });
    const before = new Set(await fuseDescriptors());
    const fuse = new CairnFuse(options, operations);
    await new Promise<void>((resolve, reject) => {
      fuse.mount((error) => {
        if (error === null || error === undefined) resolve();
        else reject(new CairnError('EIO', `cannot mount on ${options.mountpoint}: ${error.message}`));
      });
    });
    const connection = (await fuseDescriptors()).find((descriptor) => !before.has(descriptor));
    return {
      closed: watched(connectionClosed(connection, options.clock)),
      openFiles: () => operations.openFiles,
      unmount: (mode) => unmountPath(options.mountpoint, mode),
    };
  }
}

const seconds = (ms: number): string => (ms / 1000).toFixed(3);

function mountOptions(options: DriverOptions): string {
  return [
    options.source,
    'subtype=cairn',
    // Without it the kernel cuts writes into 4 KiB requests.
    'big_writes',
    'max_write=131072',
    'use_ino',
    'atomic_o_trunc',
    // The kernel's size of a file must not outlive what another mount appended (P2), and a missing name may appear.
    `attr_timeout=${seconds(options.attributeTimeoutMs ?? 0)}`,
    'ac_attr_timeout=0',
    ...options.flags.filter((flag) => LIBFUSE_FLAGS.has(flag)),
    `entry_timeout=${seconds(options.entryTimeoutMs)}`,
    'negative_timeout=0',
  ].join(',');
}

class CairnFuse extends Fuse {
  private readonly logger: Logger;
  /** State of the libfuse thread whose request is being decoded. Valid only until `_op_*` returns. */
  private thread: Buffer = Buffer.alloc(0);

  constructor(
    options: DriverOptions,
    private readonly operations: PathOperations,
  ) {
    super(options.mountpoint, Object.fromEntries(IMPLEMENTED.split(' ').map((name) => [name, true])), {
      fsname: mountOptions(options),
      defaultPermissions: options.kernelChecks,
      allowOther: options.allowOther,
      autoCache: true,
      timeout: false,
    });
    this.logger = options.logger;
    const handler = this._handlers[OP_UTIMENS];
    if (handler === undefined) throw new CairnError('INTERNAL', 'fuse-native has no utimens: is it 2.2.6?');
    this._handlers[OP_UTIMENS] = (thread, operation, ...args) => {
      this.thread = thread;
      handler(thread, operation, ...args);
    };
  }

  /**
   * Answers one request, once, with what `work` gives. `rest` is what the operation's signal takes behind the result;
   * libfuse's thread waits, so an answer must come whatever happens.
   */
  private answer<T>(
    operation: string,
    signal: Signal,
    work: () => Promise<T>,
    encode: (value: T) => [result: number, ...rest: unknown[]],
    onError: readonly unknown[] = [],
  ): void {
    const run = async (): Promise<void> => {
      let reply: [result: number, ...rest: unknown[]];
      try {
        reply = encode(await work());
      } catch (error) {
        reply = [-errnoOf(error, operation, this.logger), ...onError];
      }
      signal(...reply);
    };
    run().catch((error: unknown) => {
      this.logger.error({ operation, error: String(error) }, 'a reply was not taken by fuse-native');
    });
  }

  private done(operation: string, signal: Signal, work: () => Promise<void>): void {
    this.answer(operation, signal, work, () => [0]);
  }

  _op_getattr(signal: Signal, path: string): void {
    const work = () => this.operations.getattr(path);
    this.answer('getattr', signal, work, (attributes) => [0, statWords(attributes)], [noStatWords()]);
  }

  _op_fgetattr(signal: Signal, _path: string, handle: number): void {
    const work = () => this.operations.fgetattr(handle);
    const encode = ({ attributes, mtimeMs }: Awaited<ReturnType<typeof work>>): [number, Uint32Array] => [
      0,
      statWords(attributes, mtimeMs),
    ];
    this.answer('fgetattr', signal, work, encode, [noStatWords()]);
  }

  _op_access(signal: Signal, path: string, mask: number): void {
    this.done('access', signal, () => this.operations.access(path, mask));
  }

  _op_statfs(signal: Signal): void {
    const work = () => this.operations.statfs();
    this.answer('statfs', signal, work, (stats) => [0, statvfsWords(stats)], [noStatvfsWords()]);
  }

  _op_readlink(signal: Signal, path: string): void {
    const work = () => this.operations.readlink(path);
    this.answer('readlink', signal, work, (target) => [0, target.toString('utf8')], ['']);
  }

  _op_mknod(signal: Signal, path: string, mode: number, rdev: number): void {
    this.done('mknod', signal, () => this.operations.mknod(path, mode, rdev));
  }

  _op_mkdir(signal: Signal, path: string, mode: number): void {
    this.done('mkdir', signal, () => this.operations.mkdir(path, mode));
  }

  _op_symlink(signal: Signal, target: string, path: string): void {
    this.done('symlink', signal, () => this.operations.symlink(Buffer.from(target), path));
  }

  _op_link(signal: Signal, existing: string, path: string): void {
    this.done('link', signal, () => this.operations.link(existing, path));
  }

  _op_unlink(signal: Signal, path: string): void {
    this.done('unlink', signal, () => this.operations.unlink(path));
  }

  _op_rmdir(signal: Signal, path: string): void {
    this.done('rmdir', signal, () => this.operations.rmdir(path));
  }

  _op_rename(signal: Signal, from: string, to: string): void {
    this.done('rename', signal, () => this.operations.rename(from, to));
  }

  _op_chmod(signal: Signal, path: string, mode: number): void {
    this.done('chmod', signal, () => this.operations.chmod(path, mode));
  }

  _op_chown(signal: Signal, path: string, uid: number, gid: number): void {
    this.done('chown', signal, () => this.operations.chown(path, uid, gid));
  }

  _op_truncate(signal: Signal, path: string, sizeLow: number, sizeHigh: number): void {
    this.done('truncate', signal, () => this.operations.truncate(path, long(sizeLow, sizeHigh)));
  }

  _op_ftruncate(signal: Signal, _path: string, handle: number, sizeLow: number, sizeHigh: number): void {
    this.done('ftruncate', signal, () => this.operations.ftruncate(handle, long(sizeLow, sizeHigh)));
  }

  _op_utimens(signal: Signal, path: string, atimeLow: number, atimeHigh: number): void {
    const atime = long(atimeLow, atimeHigh);
    const mtime = mtimeOf(this.thread, atime) ?? atime;
    this.done('utimens', signal, () => this.operations.utimens(path, fromMs(atime), fromMs(mtime)));
  }

  _op_open(signal: Signal, path: string, flags: number): void {
    const work = () => this.operations.open(path, flags);
    this.answer('open', signal, work, (handle) => [0, handle], [0]);
  }

  _op_create(signal: Signal, path: string, mode: number): void {
    const work = () => this.operations.create(path, mode);
    this.answer('create', signal, work, (handle) => [0, handle], [0]);
  }

  // The ArrayBuffer of a read's or a write's buffer is libfuse's memory. It goes back with the signal, which detaches it.
  _op_read(signal: Signal, _path: string, handle: number, into: Buffer, _len: number, low: number, high: number): void {
    const work = () => this.operations.read(handle, into, long(low, high));
    this.answer('read', signal, work, (count) => [count, 0, into.buffer], [0, into.buffer]);
  }

  _op_write(
    signal: Signal,
    _path: string,
    handle: number,
    bytes: Buffer,
    _len: number,
    low: number,
    high: number,
  ): void {
    const work = () => this.operations.write(handle, bytes, long(low, high));
    this.answer('write', signal, work, (count) => [count, 0, bytes.buffer], [0, bytes.buffer]);
  }

  _op_flush(signal: Signal, _path: string, handle: number): void {
    this.done('flush', signal, () => this.operations.flush(handle));
  }

  _op_fsync(signal: Signal, _path: string, _datasync: number, handle: number): void {
    this.done('fsync', signal, () => this.operations.fsync(handle));
  }

  _op_fsyncdir(signal: Signal, path: string): void {
    this.done('fsyncdir', signal, () => this.operations.fsyncdir(path));
  }

  _op_release(signal: Signal, _path: string, handle: number): void {
    this.done('release', signal, () => this.operations.release(handle));
  }

  _op_readdir(signal: Signal, path: string): void {
    const work = async () => listingWords(await this.operations.readdir(path));
    this.answer('readdir', signal, work, ({ names, stats }) => [0, names, stats], [[], []]);
  }

  _op_setxattr(signal: Signal, path: string, name: string, value: Buffer, _position: number, flags: number): void {
    const work = () => this.operations.setxattr(path, name, value, flags);
    this.answer('setxattr', signal, work, () => [0, value.buffer], [value.buffer]);
  }

  _op_getxattr(signal: Signal, path: string, name: string, into: Buffer): void {
    const work = () => this.operations.getxattr(path, name);
    this.answer('getxattr', signal, work, (value) => [fill(into, value), into.buffer], [into.buffer]);
  }

  _op_listxattr(signal: Signal, path: string, into: Buffer): void {
    const work = async () => {
      const names = await this.operations.listxattr(path);
      return Buffer.concat(names.flatMap((name) => [name, Buffer.of(0)]));
    };
    this.answer('listxattr', signal, work, (list) => [fill(into, list), into.buffer], [into.buffer]);
  }

  _op_removexattr(signal: Signal, path: string, name: string): void {
    this.done('removexattr', signal, () => this.operations.removexattr(path, name));
  }
}

const long = (low: number, high: number): number => low + high * WORD;

/** getxattr(2): no room asks for the size; too little is ERANGE. */
function fill(into: Buffer, value: Buffer): number {
  if (into.length === 0) return value.length;
  if (into.length < value.length) return -POSIX_ERRORS.ERANGE;
  return value.copy(into);
}

/** The mtime that fuse-native does not pass, when the layout of the state is as expected: atime is where it should be. */
function mtimeOf(thread: Buffer, atimeMs: number): number | undefined {
  if (thread.length < MTIME_OFFSET + 8) return undefined;
  if (thread.readBigUInt64LE(ATIME_OFFSET) !== BigInt(atimeMs)) return undefined;
  return Number(thread.readBigUInt64LE(MTIME_OFFSET));
}
