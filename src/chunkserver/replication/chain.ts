/** Forwarding of mutations and syncs down the chain of a chunk's replicas. */
import { asCairnError, errorCodeOf, errorNumber, type ErrorCode } from '../../core/errors.js';
import { FORWARD_TIMEOUT_MS } from '../../core/limits.js';
import { ForwardRequestKind, type ForwardRequestInit, type Replica } from '../../protocol/generated/messages.js';
import { CHUNKSERVER_METHODS } from '../../protocol/methods.js';
import type { PeerPool } from './peer-pool.js';

/** A member of the chain that did not apply a mutation. */
export interface Failure {
  readonly serverId: number;
  readonly code: ErrorCode;
}

export type Forwarded = Omit<ForwardRequestInit, 'rest'>;

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
      return reply.failedServers.map((serverId, i) => ({ serverId, code: errorCodeOf(reply.errorCodes[i] ?? 0) }));
    } catch (error) {
      return [{ serverId: next.serverId, code: asCairnError(error).code }];
    }
  }
}

export function failuresToReply(failures: readonly Failure[]): { failedServers: number[]; errorCodes: number[] } {
  return {
    failedServers: failures.map((failure) => failure.serverId),
    errorCodes: failures.map((failure) => errorNumber(failure.code)),
  };
}
