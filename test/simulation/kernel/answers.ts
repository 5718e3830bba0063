/** The structures of answers, read by hand from include/uapi/linux/fuse.h, not by the driver's own code. */
import { CairnError } from '../../../src/core/errors.js';
import type { FakeReply } from '../../support/fakes/fake-kernel.js';
import type { ToldAttributes } from './inode-memory.js';

export const ERRNO = { ENOENT: 2, EIO: 5, EEXIST: 17, ETIMEDOUT: 110, ESTALE: 116 } as const;

/** What a program is told: the number of an error of errno(3). */
export class SystemCallError extends Error {
  constructor(
    readonly call: string,
    readonly errno: number,
  ) {
    super(`${call}: errno ${errno}`);
  }
}

export interface AttributesAnswer {
  readonly attributes: ToldAttributes;
  readonly validMs: number;
}

/** fuse_entry_out */
export interface EntryAnswer extends AttributesAnswer {
  readonly nodeid: number;
  readonly entryValidMs: number;
}

const u64 = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64LE(at));
const duration = (bytes: Buffer, secondsAt: number, nanosecondsAt: number): number =>
  u64(bytes, secondsAt) * 1000 + bytes.readUInt32LE(nanosecondsAt) / 1e6;

/** The body of an answer; throws what the program is told. */
export function demand(call: string, { error, body }: FakeReply): Buffer {
  if (error !== 0) throw new SystemCallError(call, error);
  return body;
}

function attributesAt(bytes: Buffer, at: number): ToldAttributes {
  if (bytes.length < at + 88) throw new CairnError('PROTOCOL', `an answer of ${bytes.length} bytes has no attributes`);
  return {
    ino: u64(bytes, at),
    size: u64(bytes, at + 8),
    mode: bytes.readUInt32LE(at + 60),
    nlink: bytes.readUInt32LE(at + 64),
  };
}

/** fuse_attr_out */
export const attributesIn = (body: Buffer): AttributesAnswer => ({
  attributes: attributesAt(body, 16),
  validMs: duration(body, 0, 8),
});

export const entryIn = (body: Buffer): EntryAnswer => ({
  nodeid: u64(body, 0),
  entryValidMs: duration(body, 16, 32),
  validMs: duration(body, 24, 36),
  attributes: attributesAt(body, 40),
});

/** fuse_open_out */
export const openIn = (body: Buffer, at = 0): { readonly handle: number; readonly flags: number } => ({
  handle: u64(body, at),
  flags: body.readUInt32LE(at + 8),
});

export const ENTRY_BYTES = 128;
const DIRENT_BYTES = 24;

/** Of READDIRPLUS: fuse_entry_out and fuse_dirent, each followed by its name. */
export function* listedIn(body: Buffer): Generator<{ name: string; next: number; entry: EntryAnswer }> {
  for (let at = 0; at < body.length;) {
    const dirent = at + ENTRY_BYTES;
    const length = body.readUInt32LE(dirent + 16);
    const name = body.toString('latin1', dirent + DIRENT_BYTES, dirent + DIRENT_BYTES + length);
    yield { name, next: u64(body, dirent + 8), entry: entryIn(body.subarray(at)) };
    at += Math.ceil((ENTRY_BYTES + DIRENT_BYTES + length) / 8) * 8;
  }
}
