/**
 * P2, P7: what programs on different mounts see of each other when they meet at one file, in random rounds: several open or lock
 * it at once after another mount wrote; it is replaced, moved away or removed while it is open; times are set between a
 * write and its close. Meanwhile a third mount is stopped for longer than its session, with a lock and unsent bytes, and
 * a fourth is killed with a lock in the middle of a long write. A fifth is of the other driver.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { chmod } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { MAX_LOCK_END } from '../../src/core/lock-ranges.js';
import { MIB, SESSION_TTL_MS } from '../../src/core/limits.js';
import { pick, SeededRandom } from '../../src/core/random.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import type { FileSystem, LockRequest, OpenFile } from '../../src/filesystem/filesystem.js';
import type { InodeId } from '../../src/core/ids.js';
import { equalBytes, fails, name, pattern, READ_ONLY, READ_WRITE } from '../conformance/case.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { DirectoryFileSystem } from '../support/filesystems/directory-filesystem.js';
import { testSeed } from '../support/seed.js';
import { cannotMount } from './mounts.js';

const run = promisify(execFile);
const SOURCE = fileURLToPath(new URL('../../../test/random/at-once.c', import.meta.url));
const LIMIT_MS = 300_000;
t.setTimeout(LIMIT_MS);
const seed = testSeed(t);
const SIZES = [10, 4096, 5000, 70_000, 300_000] as const;
/** Of each kind, however long the rest takes. */
const MIN_ROUNDS = 10;

const lockOf = (owner: string, type: LockRequest['type'], kind: LockRequest['kind'] = 'posix'): LockRequest => ({
  ...{ kind, owner, type, start: 0, end: MAX_LOCK_END, pid: 1 },
});

class Meetings {
  private version = 0;

  constructor(
    private readonly random: SeededRandom,
    /** Of one directory. */
    private readonly mounts: readonly { readonly fs: FileSystem; readonly directory: InodeId; readonly path: string }[],
    /** The same directory on a mount of the other driver, which has no locks between mounts. */
    private readonly nativePath: string,
    /** The program of at-once.c. */
    private readonly atOnce: string,
  ) {}

  readonly kinds = {
    'opens at once': () => this.opensAtOnce(),
    'readers who open at once': () => this.readersAtOnce('open'),
    'readers of fuse-native who open at once': () => this.readersAtOnce('open', this.nativePath),
    'readers who lock at once': () => this.readersAtOnce('lock'),
    'locks at once': () => this.locksAtOnce(),
    'a replaced file': () => this.replaced(),
    'replaced again and again': () => this.replacedAgain(),
  };

  private mount(index: number): { readonly fs: FileSystem; readonly directory: InodeId; readonly path: string } {
    return this.mounts[index] ?? assert.fail('there are two mounts');
  }

  /** One mount that writes, and one that reads. */
  private sides(): [number, number] {
    return pick(this.random, [
      [0, 1],
      [1, 0],
    ]);
  }

  private content(): Buffer {
    return pattern(pick(this.random, SIZES), ++this.version);
  }

  private openAt(mount: number, text: string, flags = READ_ONLY): Promise<{ readonly file: OpenFile }> {
    const { fs, directory } = this.mount(mount);
    return fs.openAt(root, directory, name(text), flags);
  }

  private async readAt(mount: number, text: string): Promise<Buffer> {
    const { file } = await this.openAt(mount, text);
    const bytes = await file.read(0, 400_000);
    await file.close();
    return bytes;
  }

  private async create(mount: number, text: string, bytes: Buffer): Promise<OpenFile> {
    const { fs, directory } = this.mount(mount);
    const { file } = await fs.create(root, directory, name(text), { mode: 0o644, flags: READ_WRITE });
    await file.write(0, bytes);
    await file.flush();
    return file;
  }

  private async rename(mount: number, from: string, to: string): Promise<void> {
    const { fs, directory: parent } = this.mount(mount);
    await fs.rename(root, { parent, name: name(from) }, { parent, name: name(to) });
  }

  private crowd<T>(work: (index: number) => Promise<T>): Promise<T[]> {
    return Promise.all(Array.from({ length: 2 + this.random.below(4) }, (_, index) => work(index)));
  }

  async opensAtOnce(): Promise<void> {
    const [writer, reader] = this.sides();
    const text = `opens-${this.version}`;
    let bytes = this.content();
    const file = await this.create(writer, text, bytes);
    const held = (await this.openAt(reader, text)).file;
    for (let round = 0; round < 4; round++) {
      equalBytes(await held.read(0, 400_000), bytes, 'through a handle that stays');
      const again = (await this.openAt(writer, text, READ_WRITE)).file;
      bytes = pattern(bytes.length, ++this.version);
      await again.write(0, bytes);
      const { fs } = this.mount(writer);
      const between = this.random.below(4);
      if (between === 0) await fs.setAttributes(root, again.inode, { mtime: { seconds: 1e6, nanoseconds: 0 } });
      if (between === 1) await fs.setAttributes(root, again.inode, { mode: 0o600 + this.random.below(0o100) });
      if (between === 2) await again.truncate(bytes.length);
      // With the old bytes, or the new.
      if (this.random.below(2) === 0) await this.readAt(reader, text);
      await again.close();
      for (const seen of await this.crowd(() => this.readAt(reader, text))) equalBytes(seen, bytes, 'what was closed');
    }
    await held.close();
    await file.close();
  }

  async readersAtOnce(how: 'open' | 'lock', readerPath?: string): Promise<void> {
    const [writer, reader] = this.sides();
    const path = readerPath ?? this.mount(reader).path;
    const text = `readers-${this.version}`;
    const { fs } = this.mount(writer);
    const block = (): Buffer => Buffer.from(String(++this.version).padEnd(4096));
    const file = await this.create(writer, text, block());
    const readers = spawn(this.atOnce, [how, `${path}/${text}`, '8']);
    try {
      const lines = createInterface({ input: readers.stdout })[Symbol.asyncIterator]();
      for (let round = 0; round < 12; round++) {
        readers.stdin.write('\n');
        const line = (await lines.next()) as IteratorResult<string, undefined>;
        assert.deepEqual(new Set((line.value ?? '').trim().split(' ').map(Number)), new Set([this.version]), how);
        if (how === 'lock') await fs.setLock(file.inode, lockOf('writer', 'write'), { wait: true });
        const again = how === 'open' ? (await this.openAt(writer, text, READ_WRITE)).file : file;
        await again.write(0, block());
        if (how === 'lock') await fs.setLock(file.inode, lockOf('writer', 'unlock'), { wait: false });
        else await again.close();
      }
    } finally {
      readers.kill();
    }
    if (how === 'lock') await fs.releaseLocks(file.inode, 'posix', 'writer');
    await file.close();
  }

  async locksAtOnce(): Promise<void> {
    const [writer, reader] = this.sides();
    const text = `locks-${this.version}`;
    let bytes = this.content();
    const file = await this.create(writer, text, bytes);
    const kind = pick(this.random, ['posix', 'flock'] as const);
    const readers = await this.crowd(async (index) => ({
      owner: `reader ${index}`,
      file: (await this.openAt(reader, text)).file,
    }));
    const [one, other] = [this.mount(writer).fs, this.mount(reader).fs];
    for (let round = 0; round < 4; round++) {
      await one.setLock(file.inode, lockOf('writer', 'write', kind), { wait: true });
      bytes = pattern(bytes.length, ++this.version);
      await file.write(0, bytes);
      await one.setLock(file.inode, lockOf('writer', 'unlock', kind), { wait: false });
      await Promise.all(
        readers.map(async ({ owner, file: open }) => {
          await other.setLock(open.inode, lockOf(owner, 'read', kind), { wait: true });
          const seen = await open.read(0, 400_000);
          await other.setLock(open.inode, lockOf(owner, 'unlock', kind), { wait: false });
          equalBytes(seen, bytes, 'under the lock');
        }),
      );
    }
    for (const { owner, file: open } of readers) {
      await other.releaseLocks(open.inode, kind, owner);
      await open.close();
    }
    await one.releaseLocks(file.inode, kind, 'writer');
    await file.close();
  }

  async replaced(): Promise<void> {
    const [writer, reader] = this.sides();
    const text = `replaced-${this.version}`;
    const files = [await this.create(writer, text, this.content())];
    const { fs, directory } = this.mount(reader);
    for (let round = 0; round < 4; round++) {
      const held = (await this.openAt(reader, text)).file;
      files.push(held);
      await fs.lookup(root, directory, name(text));
      const bytes = this.content();
      const how = this.random.below(3);
      if (how === 0) {
        await this.mount(writer).fs.unlink(root, this.mount(writer).directory, name(text));
        await this.crowd(() => fails('ENOENT', this.openAt(reader, text)));
      } else if (how === 1) await this.rename(writer, text, `${text}.${round}`);
      if (how < 2) files.push(await this.create(writer, text, bytes));
      else {
        files.push(await this.create(writer, `${text}.new`, bytes));
        await this.rename(writer, `${text}.new`, text);
      }
      for (const seen of await this.crowd(() => this.readAt(reader, text))) equalBytes(seen, bytes, 'by its name');
      const appending = (await this.openAt(reader, text, { ...READ_WRITE, append: true })).file;
      await appending.write(0, name('appended'));
      await appending.close();
      const expected = Buffer.concat([bytes, name('appended')]);
      equalBytes(await this.readAt(writer, text), expected, 'appends go to the file of the name');
    }
    for (const file of files) await file.close();
  }

  async replacedAgain(): Promise<void> {
    const [writer, reader] = this.sides();
    const text = `again-${this.version}`;
    const size = 3000;
    await (await this.create(writer, text, Buffer.alloc(size, 0))).close();
    const rounds = 12;
    let isOver = false;
    const reading = this.crowd(async () => {
      for (let last = 0; !isOver;) {
        const seen = await this.readAt(reader, text);
        assert.equal(seen.length, size, 'one whole version');
        const version = seen[0] ?? 0;
        assert.ok(seen.every((byte) => byte === version) && version >= last, `${version} after ${last}`);
        last = version;
      }
    });
    const replacing = (async () => {
      for (let round = 1; round <= rounds; round++) {
        await (await this.create(writer, `${text}.new`, Buffer.alloc(size, round))).close();
        await this.rename(writer, `${text}.new`, text);
        await pause(this.random.below(4));
      }
      isOver = true;
    })();
    await Promise.all([reading, replacing]);
  }
}

/** A mount that stops with a lock and unsent bytes, and what became of them. */
class StoppedMount {
  private constructor(
    private readonly pid: number,
    private readonly locked: OpenFile,
    private readonly other: { readonly fs: FileSystem; readonly file: OpenFile },
    readonly granted: Promise<void>,
  ) {}

  static async stop(pid: number, fs: FileSystem, other: FileSystem): Promise<StoppedMount> {
    const directory = (await fs.lookup(root, 1 as InodeId, name('meetings'))).inode;
    const { file: locked } = await fs.create(root, directory, name('locked'), { mode: 0o644, flags: READ_WRITE });
    await fs.setLock(locked.inode, lockOf('stopped', 'write'), { wait: true });
    await locked.write(0, Buffer.alloc(5000, 'a'));
    await locked.sync();
    const { file } = await other.openAt(root, directory, name('locked'), READ_WRITE);
    await locked.write(0, Buffer.alloc(5000, 'A'));
    process.kill(pid, 'SIGSTOP');
    const granted = other.setLock(file.inode, lockOf('next', 'write'), { wait: true });
    granted.catch(() => undefined);
    return new StoppedMount(pid, locked, { fs: other, file }, granted);
  }

  async goOn(): Promise<void> {
    const { file } = this.other;
    try {
      equalBytes(await file.read(0, 6000), Buffer.alloc(5000, 'a'), 'what was synced under the lock');
      await file.write(0, Buffer.alloc(5000, 'B'));
      await file.sync();
    } finally {
      process.kill(this.pid, 'SIGCONT');
    }
    await pause(3_000);
    const client = await this.other.fs.openAt(
      root,
      (await this.other.fs.lookup(root, 1 as InodeId, name('meetings'))).inode,
      name('locked'),
      READ_ONLY,
    );
    equalBytes(await client.file.read(0, 6000), Buffer.alloc(5000, 'B'), 'of who has the lock');
    await client.file.close();
    await fails('EIO', this.locked.read(0, 10));
    await fails('EIO', this.locked.write(0, Buffer.from('C')));
    await fails('EIO', this.locked.sync());
    await fails('EIO', this.locked.close());
    await file.close();
  }
}

const LONG = 4 * MIB;

/** A mount that died with a lock in the middle of a long write: who gets the lock sees one content, however he reads it. */
class DeadMount {
  private constructor(
    private readonly other: FileSystem,
    private readonly held: OpenFile,
    readonly granted: Promise<void>,
  ) {}

  static async kill(pid: number, fs: FileSystem, other: FileSystem): Promise<DeadMount> {
    const directory = (await other.lookup(root, 1 as InodeId, name('meetings'))).inode;
    const { file: made } = await other.create(root, directory, name('dying'), { mode: 0o644, flags: READ_WRITE });
    await made.write(0, Buffer.alloc(LONG, 'o'));
    await made.close();
    // Its pages are those of the file as it is: nothing but a change would make the kernel drop them.
    const { file: held } = await other.openAt(root, directory, name('dying'), READ_WRITE);
    equalBytes(await held.read(0, LONG), Buffer.alloc(LONG, 'o'), 'before');
    const there = (await fs.lookup(root, 1 as InodeId, name('meetings'))).inode;
    const { file } = await fs.openAt(root, there, name('dying'), READ_WRITE);
    await fs.setLock(file.inode, lockOf('dying', 'write'), { wait: true });
    await file.write(0, Buffer.alloc(LONG, 'N'));
    process.kill(pid, 'SIGKILL');
    const granted = other.setLock(held.inode, lockOf('heir', 'write'), { wait: true });
    granted.catch(() => undefined);
    return new DeadMount(other, held, granted);
  }

  /** `fresh` has looked at nothing yet. */
  async demandOneContent(fresh: FileSystem): Promise<void> {
    const seen = await this.held.read(0, LONG);
    const directory = await fresh.lookup(root, 1 as InodeId, name('meetings'));
    const { file } = await fresh.openAt(root, directory.inode, name('dying'), READ_ONLY);
    const parts: Buffer[] = [];
    for (let at = 0; at < LONG; at += MIB) parts.push(await file.read(at, MIB));
    equalBytes(seen, Buffer.concat(parts), 'what was read before the lock is not what is there');
    await file.close();
    await this.other.releaseLocks(this.held.inode, 'posix', 'heir');
    await this.held.close();
  }
}

t.test(
  'mounts that meet at files, one that is stopped with a lock, and one that dies with one',
  { skip: cannotMount, timeout: LIMIT_MS },
  async (t) => {
    const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: LIMIT_MS });
    await chmod(cluster.directory.path, 0o711);
    const mounts: DirectoryFileSystem[] = [];
    const paths: string[] = [];
    for (const index of [0, 1, 2, 3]) {
      const path = await cluster.mount(index);
      const mount = await DirectoryFileSystem.open(path);
      t.teardown(() => mount.close());
      mounts.push(mount);
      paths.push(`${path}/meetings`);
    }
    const nativePath = `${await cluster.mount(4, ['--driver', 'fuse-native'])}/meetings`;
    const [one, two, third, fourth] = mounts;
    assert.ok(one !== undefined && two !== undefined && third !== undefined && fourth !== undefined);
    const made = await one.makeNode(root, 1 as InodeId, name('meetings'), { kind: 'directory', mode: 0o755 });
    const directories = [made.inode, (await two.lookup(root, 1 as InodeId, name('meetings'))).inode];
    const pid = (await cluster.pids()).get('mount-2') ?? assert.fail('the third mount does not run');
    t.teardown(() => {
      if (!isGoingOn) process.kill(pid, 'SIGCONT');
    });
    let isGoingOn = false;
    const atOnce = join(cluster.directory.path, 'at-once');
    await run('cc', ['-O1', '-pthread', '-o', atOnce, SOURCE]);
    const stopped = await StoppedMount.stop(pid, third, one);
    const dying = (await cluster.pids()).get('mount-3') ?? assert.fail('the fourth mount does not run');
    const dead = await DeadMount.kill(dying, fourth, two);
    let isGranted = false;
    const granted = Promise.all([stopped.granted, dead.granted]).then(() => {
      isGranted = true;
    });
    granted.catch(() => undefined);
    const random = new SeededRandom(seed);
    const meetings = new Meetings(
      random,
      [one, two].map((fs, index) => ({ fs, directory: directories[index] ?? made.inode, path: paths[index] ?? '' })),
      nativePath,
      atOnce,
    );
    const counts: Record<string, number> = {};
    const started = performance.now();
    for (let round = 0; !isGranted || Object.keys(counts).length < 7 || round < 7 * MIN_ROUNDS; round++) {
      assert.ok(performance.now() - started < 2 * SESSION_TTL_MS || isGranted, 'the lock of the stopped mount is free');
      const [kind, meet] = pick(random, Object.entries(meetings.kinds));
      await meet().catch((error: unknown) => {
        throw new Error(`round ${round}, ${kind}: ${String(error)}`, { cause: error });
      });
      counts[kind] = (counts[kind] ?? 0) + 1;
    }
    await granted;
    isGoingOn = true;
    await dead.demandOneContent(await cluster.client());
    await stopped.goOn();
    t.comment(JSON.stringify(counts));
  },
);
