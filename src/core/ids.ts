/**
 * Branded identifiers. Each is a non-negative safe integer (or a string where said), so that it fits
 * a protobuf uint64 read as a number, and the brand keeps one kind from passing for another.
 */
import { CairnError } from './errors.js';

declare const brand: unique symbol;
type Branded<T, B extends string> = T & { readonly [brand]: B };

/** Number of an inode, unique for the life of the cluster and never reused. The root is 1. */
export type InodeId = Branded<number, 'InodeId'>;
/** Handle of a chunk, unique for the life of the cluster and never reused. */
export type ChunkHandle = Branded<number, 'ChunkHandle'>;
/** Configuration number of a chunk's replica set (GFS section 4.5): grows whenever the set changes. */
export type ChunkVersion = Branded<number, 'ChunkVersion'>;
/** Fencing number of a chunk lease: a replica refuses mutations under a lower one than it has seen. */
export type LeaseId = Branded<number, 'LeaseId'>;
/** Number that the master gave a chunkserver when it first registered. */
export type ServerId = Branded<number, 'ServerId'>;
/** A client's session with the master. */
export type SessionId = Branded<number, 'SessionId'>;
/** Index of a chunk within a file, from 0. */
export type ChunkIndex = Branded<number, 'ChunkIndex'>;

function check(value: number, kind: string): number {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new CairnError('EINVAL', `${kind} must be a non-negative safe integer, got ${value}`);
  }
  return value;
}

export const inodeId = (value: number): InodeId => check(value, 'an inode number') as InodeId;
export const chunkHandle = (value: number): ChunkHandle => check(value, 'a chunk handle') as ChunkHandle;
export const chunkVersion = (value: number): ChunkVersion => check(value, 'a chunk version') as ChunkVersion;
export const leaseId = (value: number): LeaseId => check(value, 'a lease id') as LeaseId;
export const serverId = (value: number): ServerId => check(value, 'a chunkserver id') as ServerId;
export const sessionId = (value: number): SessionId => check(value, 'a session id') as SessionId;
export const chunkIndex = (value: number): ChunkIndex => check(value, 'a chunk index') as ChunkIndex;

export const ROOT_INODE = 1 as InodeId;
