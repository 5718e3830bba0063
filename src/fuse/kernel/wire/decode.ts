/**
 * Requests of the kernel as values. Nothing here trusts a length: what is shorter than its structure, or has a name
 * without its NUL, is EINVAL, and only that request fails.
 */
import { CairnError } from '../../../core/errors.js';
import { MAX_NAME_BYTES } from '../../../core/limits.js';
import type { Timespec } from '../../../core/clock.js';
import { EXT_GROUPS, IN_HEADER_BYTES } from './protocol.js';

const WORD = 2 ** 32;

export interface RequestHeader {
  readonly length: number;
  readonly opcode: number;
  /** Number of the request, which its reply repeats. */
  readonly unique: number;
  /** What it is about; 0 for none. */
  readonly nodeid: number;
  readonly uid: number;
  readonly gid: number;
  /** Thread of the caller; 0 when it is in a pid namespace that this process does not see. */
  readonly pid: number;
  /** Bytes of extensions at the end. */
  readonly extensionBytes: number;
}

/** PROTOCOL when the message is no request: the kernel does not do that, so the connection cannot be believed. */
export function decodeHeader(message: Buffer): RequestHeader {
  if (message.length < IN_HEADER_BYTES) {
    throw new CairnError('PROTOCOL', `a request has ${message.length} bytes, less than its header`);
  }
  const cursor = new Cursor(message);
  const header = {
    length: cursor.u32(),
    opcode: cursor.u32(),
    unique: cursor.u64(),
    nodeid: cursor.nodeid(),
    uid: cursor.u32(),
    gid: cursor.u32(),
    pid: cursor.u32(),
    extensionBytes: 8 * message.readUInt16LE(36),
  };
  if (header.length !== message.length || header.extensionBytes > message.length - IN_HEADER_BYTES) {
    throw new CairnError('PROTOCOL', `a request of ${message.length} bytes claims to have ${header.length}`);
  }
  return header;
}

/** Reads the fields of a structure one after another. */
export class Cursor {
  private at = 0;

  /** `bytes` are not copied; what is to be kept must be taken by `name` or `bytes`, which copy. */
  constructor(private readonly source: Buffer) {}

  get left(): number {
    return this.source.length - this.at;
  }

  u32(): number {
    return this.source.readUInt32LE(this.advance(4));
  }

  i32(): number {
    return this.source.readInt32LE(this.advance(4));
  }

  /** Of numbers that are ours or count something: EINVAL when it is not a safe integer. */
  u64(): number {
    const at = this.advance(8);
    const value = this.source.readUInt32LE(at) + this.source.readUInt32LE(at + 4) * WORD;
    if (!Number.isSafeInteger(value)) throw new CairnError('EINVAL', `a number of the kernel is too large: ${value}`);
    return value;
  }

  /** One out of a file handle can be any number: what is past all that we give is none of them, and ESTALE later. */
  nodeid(): number {
    const at = this.advance(8);
    return this.source.readUInt32LE(at) + this.source.readUInt32LE(at + 4) * WORD;
  }

  /** Where in a file, or how many bytes of it: programs may ask for up to 2^63, far past where any file ends. */
  bytes(): number {
    const at = this.advance(8);
    return Math.min(Number.MAX_SAFE_INTEGER, this.source.readUInt32LE(at) + this.source.readUInt32LE(at + 4) * WORD);
  }

  /** Signed seconds: what is beyond any that are kept becomes the last that is, as with every file system of Linux. */
  seconds(): number {
    const at = this.advance(8);
    const seconds = this.source.readUInt32LE(at) + this.source.readInt32LE(at + 4) * WORD;
    return Math.max(Number.MIN_SAFE_INTEGER, Math.min(Number.MAX_SAFE_INTEGER, seconds));
  }

  big(): bigint {
    return this.source.readBigUInt64LE(this.advance(8));
  }

  skip(count: number): void {
    this.advance(count);
  }

  /** A name of a directory entry. ENAMETOOLONG when it is longer than NAME_MAX. */
  name(): Buffer {
    const name = this.text();
    if (name.length > MAX_NAME_BYTES) {
      throw new CairnError('ENAMETOOLONG', `a name has ${name.length} bytes, more than ${MAX_NAME_BYTES}`);
    }
    return name;
  }

  /** Bytes up to a NUL, which is taken too. A copy. */
  text(): Buffer {
    const end = this.source.indexOf(0, this.at);
    if (end < 0) throw truncated();
    const text = Buffer.from(this.source.subarray(this.at, end));
    this.at = end + 1;
    return text;
  }

  /** The next `count` bytes: a view, which the sender of the message may use again. */
  view(count: number): Buffer {
    const from = this.advance(count);
    return this.source.subarray(from, from + count);
  }

  private advance(count: number): number {
    const from = this.at;
    if (count > this.source.length - from) throw truncated();
    this.at = from + count;
    return from;
  }
}

const truncated = (): CairnError => new CairnError('EINVAL', 'a request of the kernel ends early');

/** Seconds of three times, then their nanoseconds, as SETATTR has them. */
export function decodeTimes(cursor: Cursor): { readonly atime: Timespec; readonly mtime: Timespec } {
  const [atime, mtime] = [cursor.seconds(), cursor.seconds()];
  cursor.skip(8);
  const times = {
    atime: { seconds: atime, nanoseconds: cursor.u32() },
    mtime: { seconds: mtime, nanoseconds: cursor.u32() },
  };
  cursor.skip(4);
  return times;
}

/** The groups among the extensions: those of the caller that matter to what it makes. */
export function decodeGroups(extensions: Buffer): number[] {
  const groups: number[] = [];
  for (let at = 0; at + 8 <= extensions.length;) {
    const size = extensions.readUInt32LE(at);
    if (size < 8 || size > extensions.length - at) throw truncated();
    if (extensions.readUInt32LE(at + 4) === EXT_GROUPS) {
      const cursor = new Cursor(extensions.subarray(at + 8, at + size));
      for (let count = cursor.u32(); count > 0; count--) groups.push(cursor.u32());
    }
    at += Math.ceil(size / 8) * 8;
  }
  return groups;
}
