/** What a case of the file system suite gets to work with: clients, a fresh directory, and short ways to say things. */
import assert from 'node:assert/strict';
import type { Timespec } from '../../src/core/clock.js';
import { compareTimespec } from '../../src/core/clock.js';
import { hasCode } from '../../src/core/errors.js';
import type { ErrorCode } from '../../src/core/errors.js';
import type { InodeId } from '../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import type {
  Attributes,
  Credentials,
  FileSystem,
  OpenFile,
  OpenFlags,
  RenameFlags,
} from '../../src/filesystem/filesystem.js';

export interface ConformanceTarget {
  readonly fs: FileSystem;
  /** A second client of the same cluster. */
  readonly other: FileSystem;
  /** Lets enough time pass that the next change has a later timestamp. */
  tick(): Promise<void>;
  /** Lets enough time pass that a client's kernel asks for names anew, which another client changed. */
  forgetNames?(): Promise<void>;
  /** Lets a request that was just made get to where it waits. Default: a tick. */
  settle?(): Promise<void>;
}

export interface ConformanceCase {
  readonly name: string;
  run(context: CaseContext): Promise<void>;
}

export const READ_ONLY: OpenFlags = { read: true, write: false };
export const WRITE_ONLY: OpenFlags = { read: false, write: true };
export const READ_WRITE: OpenFlags = { read: true, write: true };

export const root = ROOT_CREDENTIALS;
export const alice: Credentials = { uid: 1001, gid: 1001, groups: [2000] };
export const bob: Credentials = { uid: 1002, gid: 1002, groups: [2000] };
export const carol: Credentials = { uid: 1003, gid: 1003, groups: [] };
/** The group that alice and bob share. */
export const SHARED_GROUP = 2000;

export const name = (text: string): Buffer => Buffer.from(text);

/** `length` bytes that differ from place to place and from seed to seed. */
export function pattern(length: number, seed = 1): Buffer {
  const out = Buffer.allocUnsafe(length);
  let x = (seed * 2654435761) >>> 0;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
    out[i] = x >>> 24;
  }
  return out;
}

export function isLater(after: Timespec, before: Timespec): boolean {
  return compareTimespec(after, before) > 0;
}

export function equalBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assert.fail(`${what}: ${actual.length} bytes, expected ${expected.length}; first difference at ${at}`);
}

/** The promise must fail with one of `codes`. */
export async function fails(codes: ErrorCode | readonly ErrorCode[], promise: Promise<unknown>): Promise<void> {
  const allowed = typeof codes === 'string' ? [codes] : codes;
  let result: unknown;
  try {
    result = await promise;
  } catch (error) {
    if (hasCode(error, ...allowed)) return;
    assert.fail(`expected ${allowed.join(' or ')}, got ${String(error)}`);
  }
  assert.fail(`expected ${allowed.join(' or ')}, got success: ${JSON.stringify(result)}`);
}

export class CaseContext {
  constructor(
    private readonly target: ConformanceTarget,
    /** Empty, and everyone may write in it. */
    readonly dir: InodeId,
  ) {}

  get fs(): FileSystem {
    return this.target.fs;
  }
  get other(): FileSystem {
    return this.target.other;
  }
  tick(): Promise<void> {
    return this.target.tick();
  }
  async forgetNames(): Promise<void> {
    await this.target.forgetNames?.();
  }
  settle(): Promise<void> {
    return this.target.settle?.() ?? this.target.tick();
  }

  async mkdir(text: string, mode = 0o755, as: Credentials = root, parent = this.dir): Promise<InodeId> {
    const attributes = await this.fs.makeNode(as, parent, name(text), { kind: 'directory', mode });
    return attributes.inode;
  }

  /** A closed file with `content`. */
  async file(text: string, content?: Uint8Array, options: FileOptions = {}): Promise<InodeId> {
    const { file } = await this.fs.create(options.as ?? root, options.parent ?? this.dir, name(text), {
      mode: options.mode ?? 0o644,
      flags: READ_WRITE,
    });
    if (content !== undefined) await file.write(0, content);
    await file.close();
    return file.inode;
  }

  async opened(inode: InodeId, flags: OpenFlags = READ_WRITE, fs = this.fs): Promise<OpenFile> {
    return (await fs.open(root, inode, flags)).file;
  }

  async content(inode: InodeId, fs = this.fs): Promise<Buffer> {
    const { file, attributes } = await fs.open(root, inode, READ_ONLY);
    try {
      return await file.read(0, attributes.size);
    } finally {
      await file.close();
    }
  }

  async names(directory = this.dir, fs = this.fs): Promise<string[]> {
    const all: string[] = [];
    for (let cookie = 0; ;) {
      const page = await fs.readDirectory(root, directory, cookie);
      for (const entry of page.entries) {
        all.push(entry.name.toString());
        cookie = entry.cookie;
      }
      if (page.end) return all.sort();
    }
  }

  attributes(inode: InodeId): Promise<Attributes> {
    return this.fs.getAttributes(inode);
  }

  lookup(text: string, parent = this.dir, as: Credentials = root): Promise<Attributes> {
    return this.fs.lookup(as, parent, name(text));
  }

  async exists(text: string, parent = this.dir): Promise<boolean> {
    try {
      await this.lookup(text, parent);
      return true;
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return false;
      throw error;
    }
  }

  /** Nothing names the inode any more; the server may keep what is left of it for a while. */
  async isGone(inode: InodeId): Promise<boolean> {
    try {
      return (await this.attributes(inode)).nlink === 0;
    } catch (error) {
      if (hasCode(error, 'ENOENT', 'ESTALE')) return true;
      throw error;
    }
  }

  /** How `change` alters the times of `inode`; the caller says which must be later. */
  async times(inode: InodeId, change: () => Promise<unknown>): Promise<{ mtime: boolean; ctime: boolean }> {
    const before = await this.attributes(inode);
    await this.tick();
    await change();
    const after = await this.attributes(inode);
    return { mtime: isLater(after.mtime, before.mtime), ctime: isLater(after.ctime, before.ctime) };
  }

  rename(from: string, to: string, options: RenameOptions = {}): Promise<void> {
    return this.fs.rename(
      options.as ?? root,
      { parent: options.fromParent ?? this.dir, name: name(from) },
      { parent: options.toParent ?? options.fromParent ?? this.dir, name: name(to) },
      options.flags,
    );
  }
}

export interface FileOptions {
  readonly as?: Credentials;
  readonly mode?: number;
  readonly parent?: InodeId;
}

export interface RenameOptions {
  readonly as?: Credentials;
  readonly fromParent?: InodeId;
  /** Default: the same as `fromParent`. */
  readonly toParent?: InodeId;
  readonly flags?: RenameFlags;
}
