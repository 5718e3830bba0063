/**
 * The keys of the master's store: one letter for the table, then fixed-width big-endian numbers and raw bytes, so that
 * keys sort by table, then by number. docs/disk-format.md lists the tables with their values.
 */
import type { ChunkHandle, ChunkIndex, InodeId, ServerId, SessionId } from '../../core/ids.js';
import type { Key, KeyRange } from '../store/store.js';

/** A safe integer as 7 bytes, big-endian: enough for 2^53. */
export function packNumber(value: number): string {
  const high = Math.floor(value / 2 ** 32);
  return String.fromCharCode(
    (high >>> 16) & 0xff,
    (high >>> 8) & 0xff,
    high & 0xff,
    (value >>> 24) & 0xff,
    (value >>> 16) & 0xff,
    (value >>> 8) & 0xff,
    value & 0xff,
  );
}

/** The number packed at `at` of a key. */
export function unpackNumber(key: Key, at: number): number {
  let value = 0;
  for (let i = at; i < at + 7; i++) value = value * 256 + key.charCodeAt(i);
  return value;
}

export const nameToKey = (name: Uint8Array): string =>
  Buffer.from(name.buffer, name.byteOffset, name.length).toString('latin1');
export const keyToName = (key: Key, at: number): Buffer => Buffer.from(key.slice(at), 'latin1');

/** Length of a table letter and one packed number. */
export const PREFIX_LENGTH = 8;

export const keys = {
  /** 'I' inode → InodeRecord */
  inode: (inode: InodeId): Key => 'I' + packNumber(inode),
  /** 'D' parent, name → DentryRecord */
  dentry: (parent: InodeId, name: Uint8Array): Key => 'D' + packNumber(parent) + nameToKey(name),
  /** 'C' parent, cookie → CookieRecord: the order of readdir */
  cookie: (parent: InodeId, cookie: number): Key => 'C' + packNumber(parent) + packNumber(cookie),
  /** 'X' inode, name → value of the xattr */
  xattr: (inode: InodeId, name: Uint8Array): Key => 'X' + packNumber(inode) + nameToKey(name),
  /** 'F' inode, chunk index → packed handle, packed layout version it was allocated under: the chunk map */
  fileChunk: (inode: InodeId, index: ChunkIndex): Key => 'F' + packNumber(inode) + packNumber(index),
  /** 'K' handle → ChunkRecord */
  chunk: (handle: ChunkHandle): Key => 'K' + packNumber(handle),
  /** 'R' server, handle → empty: which chunks a server holds at their current version */
  serverChunk: (server: ServerId, handle: ChunkHandle): Key => 'R' + packNumber(server) + packNumber(handle),
  /** 'S' server → ServerRecord */
  server: (server: ServerId): Key => 'S' + packNumber(server),
  /** 'G' handle → empty, or packed second at which its grace began: to be deleted from its servers, then forgotten */
  garbage: (handle: ChunkHandle): Key => 'G' + packNumber(handle),
  /** 'Z' server, handle → packed version: a replica of a deleted chunk, on a server that was not there to be told */
  deletion: (server: ServerId, handle: ChunkHandle): Key => 'Z' + packNumber(server) + packNumber(handle),
  /** 'W' handle → empty: a chunk that has too few or too many replicas, needs recovery, or has damaged blocks */
  degraded: (handle: ChunkHandle): Key => 'W' + packNumber(handle),
  /** 'L' handle → LeaseRecord: a lease on it may be in use */
  lease: (handle: ChunkHandle): Key => 'L' + packNumber(handle),
  /** 'B' inode → empty: what was written under a lease that ended may lie there, and nobody has told of it (left-behind.ts) */
  behind: (inode: InodeId): Key => 'B' + packNumber(inode),
  /** 'T' inode → empty: the inode has pending cuts, or is gone and has chunks left */
  pendingCut: (inode: InodeId): Key => 'T' + packNumber(inode),
  /** 'U' inode → empty: no name is left; reaped when no session has it open. Or the key of a reply: and when that is gone */
  orphan: (inode: InodeId): Key => 'U' + packNumber(inode),
  /** 'N' session → SessionRecord */
  session: (session: SessionId): Key => 'N' + packNumber(session),
  /** 'P' session, sequence → StoredReply */
  reply: (session: SessionId, sequence: number): Key => 'P' + packNumber(session) + packNumber(sequence),
  /** 'A' session, inode → empty: the append lease of the file went to others, which the client may not know (taken-appends.ts) */
  takenAppend: (session: SessionId, inode: InodeId): Key => 'A' + packNumber(session) + packNumber(inode),
  /** 'M' name → packed number or text: counters and identity of the cluster */
  meta: (name: MetaName): Key => 'M' + name,
} as const;

export type MetaName =
  | 'sequence'
  | 'epoch'
  | 'boot'
  | 'epochs'
  | 'loss-epoch'
  | 'stopped-epoch'
  | 'cluster-id'
  | 'next-inode'
  | 'next-handle'
  | 'next-server'
  | 'next-session'
  | 'next-lease'
  | 'version-floor'
  | 'lease-floor'
  | 'strangers'
  | 'wanted-replicas'
  | 'recounted'
  | 'inode-count'
  | 'chunk-count'
  | 'format';

/** All keys that begin with `prefix`. */
export function prefixRange(prefix: Key): KeyRange {
  const last = prefix.charCodeAt(prefix.length - 1);
  if (last === 0xff) return { start: prefix, end: prefixRange(prefix.slice(0, -1)).end };
  return { start: prefix, end: prefix.slice(0, -1) + String.fromCharCode(last + 1) };
}

export const packed = (value: number): Buffer => Buffer.from(packNumber(value), 'latin1');
export const unpacked = (value: Uint8Array): number =>
  unpackNumber(Buffer.from(value.buffer, value.byteOffset, value.length).toString('latin1'), 0);
