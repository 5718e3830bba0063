/**
 * One program at work on a cluster: random operations in a directory of its own, one after another, each made on the
 * model too. The two must agree, in result or in error. An actor with several clients hands its work from one to the
 * next, closing everything in between (P2).
 */
import assert from 'node:assert/strict';
import { asCairnError } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import type { InodeId } from '../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, KIB } from '../../../src/core/limits.js';
import { pick } from '../../../src/core/random.js';
import type { Random } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type {
  Attributes,
  Credentials,
  DirectoryEntry,
  FileSystem,
  OpenFile,
} from '../../../src/filesystem/filesystem.js';
import { equalBytes } from '../../conformance/case.js';

/** A thing on both sides. */
export interface Both<T> {
  readonly real: T;
  readonly model: T;
}

interface OpenedBoth extends Both<OpenFile> {
  readonly canWrite: boolean;
}

export interface ActorOptions {
  readonly name: string;
  readonly random: Random;
  readonly clients: readonly FileSystem[];
  readonly model: FileSystem;
  /** Its directory, empty at first. */
  readonly home: Both<InodeId>;
  readonly onOperation: (line: string) => void;
  /** Resolves when the client's machine does not stand still: its programs do not either. */
  readonly awake?: (client: FileSystem) => Promise<void>;
  /** fsync before every close. */
  readonly syncsBeforeClose?: boolean;
}

const NAMES = ['a', 'b', 'c', 'd', 'e'].map((text) => Buffer.from(text));
const STRANGER: Credentials = { uid: 1001, gid: 1001, groups: [] };
const MAX_OPEN_FILES = 4;
const MAX_WRITE_BYTES = 150 * KIB;
/** Where the bytes of a test file are: at its start, and around the end of its first chunk. */
export const DATA_WINDOWS = [
  { start: 0, length: 400 * KIB },
  { start: CHUNK_SIZE_BYTES - 200 * KIB, length: 600 * KIB },
] as const;

/** Errors that mean the same to an application, or that POSIX leaves open. */
const SAME: Partial<Record<ErrorCode, ErrorCode>> = { ESTALE: 'ENOENT' };

export class Actor {
  private directories: Both<InodeId>[];
  private files: Both<InodeId>[] = [];
  private opened: OpenedBoth[] = [];
  private turn = 0;

  constructor(private readonly options: ActorOptions) {
    this.directories = [options.home];
  }

  private get fs(): FileSystem {
    const { clients } = this.options;
    return clients[this.turn % clients.length] ?? assert.fail('an actor needs a client');
  }

  /** One random operation. */
  async step(): Promise<void> {
    const { random } = this.options;
    await this.forgetTheGone();
    const choice = random.below(100);
    if (choice < 12) await this.create();
    else if (choice < 18) await this.makeDirectory();
    else if (choice < 26) await this.remove();
    else if (choice < 33) await this.rename();
    else if (choice < 36) await this.link();
    else if (choice < 40) await this.change();
    else if (choice < 44) await this.list(pick(random, this.directories));
    else if (choice < 48) await this.look();
    else if (choice < 51) await this.attribute();
    else if (choice < 58) await this.openFile();
    else if (choice < 76) await this.write();
    else if (choice < 87) await this.read();
    else if (choice < 90) await this.truncate();
    else if (choice < 93) await this.flush();
    else if (choice < 98) await this.range();
    else await this.closeOne();
    if (this.options.clients.length > 1 && random.below(20) === 0) await this.handOver();
  }

  /** Closes what is open; the next client goes on. */
  async handOver(): Promise<void> {
    while (this.opened.length > 0) await this.closeOne();
    this.turn++;
  }

  /** fsync of all that is open, and of the namespace. */
  async syncAll(): Promise<void> {
    for (const file of this.opened) await this.both('sync', (side) => file[side].sync());
    await this.fs.syncMetadata();
  }

  private async create(): Promise<void> {
    const { random } = this.options;
    const [directory, name] = this.place();
    const as = this.caller();
    const options = {
      mode: pick(random, [0o644, 0o600, 0o755, 0o666]),
      flags: { read: true, write: true, truncate: random.below(4) === 0, append: random.below(6) === 0 },
      exclusive: random.below(3) === 0,
    };
    const made = await this.both(`create ${name.toString()} in ${directory.model}`, (side, fs) =>
      fs.create(as, directory[side], name, options),
    );
    if (made === undefined) return;
    assert.equal(made.real.created, made.model.created, 'created');
    this.keep({ real: made.real.file, model: made.model.file, canWrite: true });
    await this.boundOpenFiles();
  }

  private async makeDirectory(): Promise<void> {
    const { random } = this.options;
    const [directory, name] = this.place();
    const as = this.caller();
    if (random.below(4) === 0) {
      const target = Buffer.from(random.bytes(1 + random.below(100)).map((byte) => byte || 1)); // NUL ends a path
      await this.both(`symlink ${name.toString()} in ${directory.model}`, (side, fs) =>
        fs.symlink(as, directory[side], name, target),
      );
      return;
    }
    const node = { kind: 'directory', mode: pick(random, [0o755, 0o777, 0o700]) } as const;
    const made = await this.both(`mkdir ${name.toString()} in ${directory.model}`, (side, fs) =>
      fs.makeNode(as, directory[side], name, node),
    );
    if (made !== undefined) this.directories.push({ real: made.real.inode, model: made.model.inode });
  }

  private async remove(): Promise<void> {
    const { random } = this.options;
    const isDirectory = random.below(5) < 2;
    const [directory, name] = await this.existing(isDirectory ? 'directory' : 'other');
    const as = this.caller();
    await this.both(`${isDirectory ? 'rmdir' : 'unlink'} ${name.toString()} in ${directory.model}`, (side, fs) =>
      isDirectory ? fs.removeDirectory(as, directory[side], name) : fs.unlink(as, directory[side], name),
    );
  }

  private async rename(): Promise<void> {
    const { random } = this.options;
    const [fromDirectory, fromName] = await this.existing();
    const [toDirectory, toName] = this.place();
    const flags = pick(random, [{}, {}, {}, { noReplace: true }, { exchange: true }]);
    await this.both(
      `rename ${fromName.toString()} in ${fromDirectory.model} to ${toName.toString()} in ${toDirectory.model} ${JSON.stringify(flags)}`,
      (side, fs) =>
        fs.rename(
          ROOT_CREDENTIALS,
          { parent: fromDirectory[side], name: fromName },
          { parent: toDirectory[side], name: toName },
          flags,
        ),
    );
  }

  private async link(): Promise<void> {
    if (this.files.length === 0) return;
    const file = pick(this.options.random, this.files);
    const [directory, name] = this.place();
    const as = this.caller();
    await this.both(`link ${file.model} as ${name.toString()} in ${directory.model}`, (side, fs) =>
      fs.link(as, file[side], directory[side], name),
    );
  }

  private async change(): Promise<void> {
    const { random } = this.options;
    const node = pick(random, [...this.directories, ...this.files]);
    const changes = pick(random, [
      { mode: random.below(0o10000) },
      { uid: 1001 + random.below(2) },
      { gid: 1001 + random.below(2) },
      { mtime: { seconds: random.below(2 ** 31), nanoseconds: random.below(1e9) } },
    ]);
    // The home stays open to all, so that there is work for the others.
    if (node.model === this.options.home.model) return;
    const as = this.caller();
    const changed = await this.both(`setattr ${node.model} ${JSON.stringify(changes)}`, (side, fs) =>
      fs.setAttributes(as, node[side], changes),
    );
    if (changed === undefined) return;
    equalAttributes(changed.real, changed.model);
    if (changes.mtime !== undefined) assert.deepEqual(changed.real.mtime, changed.model.mtime);
  }

  private async look(): Promise<void> {
    // What another client changed may be seen late: only an open or a listing asks the master (P2).
    if (this.options.clients.length > 1) return;
    const [directory, name] = await this.existing();
    const as = this.caller();
    const seen = await this.both(`lookup ${name.toString()} in ${directory.model}`, (side, fs) =>
      fs.lookup(as, directory[side], name),
    );
    if (seen === undefined) return;
    equalAttributes(seen.real, seen.model);
    if ((seen.model.mode & 0o170000) === 0o120000) {
      const target = await this.both('readlink', (side, fs) => fs.readLink(as, seen[side].inode));
      assert.deepEqual(target?.real, target?.model);
    }
  }

  private async list(directory: Both<InodeId>): Promise<void> {
    const as = this.caller();
    const maxEntries = 1 + this.options.random.below(6);
    const listed = await this.both(`readdir ${directory.model}`, async (side, fs) => {
      const names: string[] = [];
      for (let cookie = 0, end = false; !end;) {
        const page = await fs.readDirectory(as, directory[side], cookie, { maxEntries });
        names.push(...page.entries.map((entry) => `${entry.kind} ${entry.name.toString('latin1')}`));
        cookie = page.entries.at(-1)?.cookie ?? cookie;
        end = page.end;
      }
      return names.sort();
    });
    if (listed !== undefined) assert.deepEqual(listed.real, listed.model);
  }

  private async attribute(): Promise<void> {
    const { random } = this.options;
    const node = pick(random, [...this.directories, ...this.files]);
    const name = Buffer.from(`user.${random.below(3)}`);
    const value = random.bytes(random.below(300));
    const action = random.below(4);
    const result = await this.both(`xattr ${action} of ${node.model}`, async (side, fs) => {
      if (action === 0) return fs.getXattr(ROOT_CREDENTIALS, node[side], name);
      if (action === 1) return (await fs.listXattrs(ROOT_CREDENTIALS, node[side])).map(String).sort();
      if (action === 2) return fs.removeXattr(ROOT_CREDENTIALS, node[side], name);
      return fs.setXattr(ROOT_CREDENTIALS, node[side], name, value);
    });
    if (result !== undefined) assert.deepEqual(result.real, result.model);
  }

  private async openFile(): Promise<void> {
    const { random } = this.options;
    const [directory, name] = await this.existing('other');
    const as = this.caller();
    const flags = {
      read: true,
      write: random.below(3) > 0,
      append: random.below(6) === 0,
      sync: random.below(8) === 0,
    };
    const opened = await this.both(`open ${name.toString()} in ${directory.model}`, (side, fs) =>
      fs.openAt(as, directory[side], name, flags),
    );
    if (opened === undefined) return;
    this.keep({ real: opened.real.file, model: opened.model.file, canWrite: flags.write });
    equalAttributes(opened.real.attributes, opened.model.attributes);
    await this.boundOpenFiles();
  }

  private async write(): Promise<void> {
    const { random } = this.options;
    const file = this.anyOpen();
    if (file === undefined) return this.create();
    const bytes = random.bytes(1 + random.below(random.below(3) === 0 ? MAX_WRITE_BYTES : 3000));
    const offset = this.offset(bytes.length);
    await this.both(`write ${bytes.length} at ${offset} of ${file.model.inode}`, (side) =>
      file[side].write(offset, bytes),
    );
  }

  private async read(): Promise<void> {
    const { random } = this.options;
    const file = this.anyOpen();
    if (file === undefined) return this.openFile();
    const length = 1 + random.below(300 * KIB);
    const offset = this.offset(1);
    const read = await this.both(`read ${length} at ${offset} of ${file.model.inode}`, (side) =>
      file[side].read(offset, length),
    );
    if (read !== undefined) equalBytes(read.real, read.model, `read ${length} at ${offset} of ${file.model.inode}`);
    const seen = await this.both(`fstat ${file.model.inode}`, (side) => file[side].attributes());
    if (seen !== undefined) equalAttributes(seen.real, seen.model);
  }

  private async truncate(): Promise<void> {
    const { random } = this.options;
    const size = this.offset(1);
    const file = this.anyOpen();
    if (file !== undefined && file.canWrite && random.below(2) === 0) {
      await this.both(`ftruncate ${file.model.inode} to ${size}`, (side) => file[side].truncate(size));
      return;
    }
    if (this.files.length === 0) return;
    const node = pick(random, this.files);
    const as = this.caller();
    await this.both(`truncate ${node.model} to ${size}`, (side, fs) => fs.setAttributes(as, node[side], { size }));
  }

  /** fallocate(2) in all its modes, and copy_file_range(2). */
  private async range(): Promise<void> {
    const { random } = this.options;
    const [file, other] = [this.anyOpen(), this.anyOpen()];
    if (file === undefined || other === undefined) return this.create();
    const length = 1 + random.below(random.below(6) === 0 ? 2 * CHUNK_SIZE_BYTES : MAX_WRITE_BYTES);
    const offset = this.offset(1);
    if (random.below(2) === 0) {
      const [from, count] = [this.offset(1), Math.min(length, 2 * MAX_WRITE_BYTES)];
      const what = `copy ${count} from ${from} of ${other.model.inode} to ${offset} of ${file.model.inode}`;
      const copied = await this.both(what, (side) => file[side].copyFrom(other[side], from, offset, count));
      assert.equal(copied?.real, copied?.model, what);
      return;
    }
    const mode = pick(random, [
      { punchHole: true, keepSize: true },
      { punchHole: true, keepSize: true },
      { zeroRange: true },
      { zeroRange: true, keepSize: true },
      { keepSize: true },
    ]);
    await this.both(
      `fallocate ${JSON.stringify(mode)} of ${length} at ${offset} of ${file.model.inode}`,
      async (side) => file[side].allocate(offset, mode.keepSize === true ? length : Math.min(length, 1000), mode),
    );
  }

  private async flush(): Promise<void> {
    const file = this.anyOpen();
    if (file === undefined) return;
    const isSync = this.options.random.below(2) === 0;
    await this.both(`${isSync ? 'fsync' : 'flush'} ${file.model.inode}`, (side) =>
      isSync ? file[side].sync() : file[side].flush(),
    );
  }

  private async closeOne(): Promise<void> {
    const file = this.anyOpen();
    if (file === undefined) return;
    this.opened = this.opened.filter((each) => each !== file);
    if (this.options.syncsBeforeClose === true) await this.both('sync', (side) => file[side].sync());
    await this.both(`close ${file.model.inode}`, (side) => file[side].close());
  }

  private keep(opened: OpenedBoth): void {
    this.opened.push(opened);
    if (!this.files.some((each) => each.model === opened.model.inode)) {
      this.files.push({ real: opened.real.inode, model: opened.model.inode });
    }
  }

  private async boundOpenFiles(): Promise<void> {
    while (this.opened.length > MAX_OPEN_FILES) await this.closeOne();
  }

  private anyOpen(): OpenedBoth | undefined {
    return this.opened.length === 0 ? undefined : pick(this.options.random, this.opened);
  }

  private place(): [Both<InodeId>, Buffer] {
    const { random } = this.options;
    return [pick(random, this.directories), pick(random, NAMES)];
  }

  /** An entry that is there, if the directory has one, most of the time. */
  private async existing(kind?: 'directory' | 'other'): Promise<[Both<InodeId>, Buffer]> {
    const { random, model } = this.options;
    const [directory, name] = this.place();
    if (random.below(5) === 0) return [directory, name];
    const { entries } = await model.readDirectory(ROOT_CREDENTIALS, directory.model, 0);
    const wanted = (each: DirectoryEntry): boolean =>
      kind === undefined || (each.kind === 'directory') === (kind === 'directory');
    const fitting = entries.filter(wanted);
    return [directory, fitting.length > 0 ? pick(random, fitting).name : name];
  }

  /** A kernel never names an inode that nothing leads to; a server may keep it for a while or not. */
  private async forgetTheGone(): Promise<void> {
    const isThere = async ({ model }: Both<InodeId>): Promise<boolean> =>
      this.options.model.getAttributes(model).then(
        () => true,
        () => false,
      );
    const keep = async (nodes: Both<InodeId>[]): Promise<Both<InodeId>[]> => {
      const there = await Promise.all(nodes.map(isThere));
      return nodes.filter((_, index) => there[index] === true);
    };
    this.directories = await keep(this.directories);
    this.files = await keep(this.files);
  }

  private caller(): Credentials {
    return this.options.random.below(10) === 0 ? STRANGER : ROOT_CREDENTIALS;
  }

  private offset(length: number): number {
    const { random } = this.options;
    const window = random.below(12) === 0 ? DATA_WINDOWS[1] : DATA_WINDOWS[0];
    const room = Math.max(1, Math.min(300 * KIB, window.length - length));
    return window.start + random.below(random.below(3) === 0 ? room : Math.min(room, 20_000));
  }

  /** Makes one operation on both sides; undefined when both failed, and alike. */
  private async both<T>(
    what: string,
    operation: (side: 'real' | 'model', fs: FileSystem) => Promise<T>,
  ): Promise<Both<T> | undefined> {
    const line = `${this.options.name}/${this.turn % this.options.clients.length} ${what}`;
    await this.options.awake?.(this.fs);
    this.options.onOperation(`begin ${line}`);
    const real = await outcome(operation('real', this.fs));
    const model = await outcome(operation('model', this.options.model));
    this.options.onOperation(`end ${line}: ${real.code ?? 'ok'}`);
    if (real.code !== model.code) {
      assert.fail(
        `${line}: ${real.code ?? 'success'} (${real.message}), the model says ${model.code ?? 'success'} (${model.message})`,
      );
    }
    if (real.code !== undefined) return undefined;
    return { real: real.value as T, model: model.value as T };
  }
}

async function outcome<T>(promise: Promise<T>): Promise<{ code?: ErrorCode; message: string; value?: T }> {
  try {
    return { value: await promise, message: '' };
  } catch (error) {
    const { code, message } = asCairnError(error);
    return { code: SAME[code] ?? code, message };
  }
}

/** What both sides must agree on: not the numbers of inodes, nor times that their clocks gave. */
export function equalAttributes(real: Attributes, model: Attributes): void {
  const view = ({ mode, nlink, uid, gid, size }: Attributes): object => ({
    mode: mode.toString(8),
    nlink,
    uid,
    gid,
    size,
  });
  // The size of a directory is the file system's own affair.
  const isDirectory = (model.mode & 0o170000) === 0o040000;
  assert.deepEqual(
    view(isDirectory ? { ...real, size: 0 } : real),
    view({ ...model, ...(isDirectory ? { size: 0 } : {}) }),
  );
}
