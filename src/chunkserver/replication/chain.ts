/** Forwarding of mutations and syncs down the chain of a chunk's replicas. */
import { asCairnError, errorCodeOf, errorNumber, hasCode, type ErrorCode } from '../../core/errors.js';
import { FORWARD_TIMEOUT_MS } from '../../core/limits.js';
import {
  ForwardRequestKind,
  type ForwardReply,
  type ForwardRequestInit,
  type Replica,
} from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { ChunkWrite } from '../chunk/chunk-file.js';
import type { PeerPool } from './peer-pool.js';

/** A member of the chain that did not apply a mutation. */
export interface Failure {
  readonly serverId: number;
  readonly code: ErrorCode;
}

export type Forwarded = Omit<ForwardRequestInit, 'rest'>;

/** The chunk, its lease, and the first serial of what is forwarded. */
export interface ForwardedChunk {
  readonly handle: number;
  readonly version: number;
  readonly leaseId: number;
  readonly serial: number;
}

export class Chain {
  constructor(private readonly pool: PeerPool) {}

  /**
   * Sends `request` to the first of `rest`, which sends it on. Never rejects: returns who failed, nobody when all have
   * applied it. Servers behind one that failed may have missed it too; recovery sees to them.
   */
  async forward(rest: readonly Replica[], request: Forwarded, payload?: Uint8Array): Promise<Failure[]> {
    const [next, ...behind] = rest;
    if (next === undefined) return [];
    // Whoever is further up waits longer, so that the server next to the broken one names it. A sync waits for disks.
    const servers = request.kind === ForwardRequestKind.SYNC ? rest.length + 1 : rest.length;
    try {
      const peer = await this.pool.get(next.address);
      const options = { timeoutMs: FORWARD_TIMEOUT_MS * servers, payload };
      const { reply } = await peer.call(CHUNKSERVER_METHODS.forward, { ...request, rest: behind }, options);
      return failuresOf(reply);
    } catch (error) {
      return [{ serverId: next.serverId, code: asCairnError(error).code }];
    }
  }

  /** As `forward`, of `writes`, whose bytes are `payload`; their serials begin with that of `chunk`. */
  async forwardBatch(
    rest: readonly Replica[],
    chunk: ForwardedChunk,
    writes: readonly ChunkWrite[],
    payload: Uint8Array,
  ): Promise<Failure[]> {
    const [next, ...behind] = rest;
    if (next === undefined) return [];
    try {
      const peer = await this.pool.get(next.address);
      const request = { ...chunk, ...toBatch(writes), rest: behind };
      const options = { timeoutMs: FORWARD_TIMEOUT_MS * rest.length, payload };
      const { reply } = await peer.call(CHUNKSERVER_METHODS.forwardBatch, request, options);
      return failuresOf(reply);
    } catch (error) {
      // A server of an older CairnFS, which gets them one by one.
      if (hasCode(error, 'EOPNOTSUPP')) return this.forwardEach(rest, chunk, writes);
      return [{ serverId: next.serverId, code: asCairnError(error).code }];
    }
  }

  private async forwardEach(
    rest: readonly Replica[],
    chunk: ForwardedChunk,
    writes: readonly ChunkWrite[],
  ): Promise<Failure[]> {
    const all = writes.map(({ offset, bytes, checksums }, i) => {
      const write = { ...chunk, serial: chunk.serial + i, kind: ForwardRequestKind.WRITE, offset, checksums };
      return this.forward(rest, write, bytes);
    });
    // Each server is named once: behind the first failure others follow.
    return (await Promise.all(all)).find((failures) => failures.length > 0) ?? [];
  }
}

const failuresOf = (reply: ForwardReply): Failure[] =>
  reply.failedServers.map((serverId, i) => ({ serverId, code: errorCodeOf(reply.errorCodes[i] ?? 0) }));

const toBatch = (
  writes: readonly ChunkWrite[],
): { readonly offsets: number[]; readonly lengths: number[]; readonly checksums: number[] } => ({
  offsets: writes.map(({ offset }) => offset),
  lengths: writes.map(({ bytes }) => bytes.length),
  checksums: writes.flatMap(({ checksums }) => checksums),
});

export function failuresToReply(failures: readonly Failure[]): { failedServers: number[]; errorCodes: number[] } {
  return {
    failedServers: failures.map((failure) => failure.serverId),
    errorCodes: failures.map((failure) => errorNumber(failure.code)),
  };
}
