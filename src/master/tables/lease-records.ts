/**
 * 'L': the leases that may be in use. One is written before its lease is sent, and goes when the lease ended cleanly or its chunk was
 * recovered (chunks/leases.ts).
 */
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle } from '../../core/ids.js';
import { LeaseRecord } from '../../protocol/generated/messages.js';
import type { LeaseRecordInit } from '../../protocol/generated/messages.js';
import { keys, prefixRange, unpackNumber } from '../state/keys.js';
import type { Mutation, StateReader } from '../state/state.js';

/** A lease of the chunk may be in use. */
export function isLeased(reader: StateReader, handle: ChunkHandle): boolean {
  return reader.get(keys.lease(handle)) !== undefined;
}

export function getLease(reader: StateReader, handle: ChunkHandle): LeaseRecord | undefined {
  const value = reader.get(keys.lease(handle));
  return value === undefined ? undefined : LeaseRecord.decode(value);
}

export function saveLease(m: Mutation, handle: ChunkHandle, lease: LeaseRecordInit): void {
  m.put(keys.lease(handle), LeaseRecord.encode(lease).finish());
}

export function deleteLease(m: Mutation, handle: ChunkHandle): void {
  if (isLeased(m, handle)) m.delete(keys.lease(handle));
}

export function allLeases(reader: StateReader): (readonly [ChunkHandle, LeaseRecord])[] {
  const leases: (readonly [ChunkHandle, LeaseRecord])[] = [];
  for (const [key, value] of reader.range(prefixRange('L'))) {
    leases.push([chunkHandle(unpackNumber(key, 1)), LeaseRecord.decode(value)]);
  }
  return leases;
}
