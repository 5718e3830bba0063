/**
 * The members that a recovery leaves out of a chunk: none of them may serve readers any more when the new version is
 * written down, since readers know it as current for a while (P9). One of these holds of each at that moment:
 *
 *   - its server said that it refuses reads of the replica. It keeps that in memory, so a hanging disk does not hinder it, and
 *     another process forgets it: the answer counts until the server registers again.
 *   - it is dead: silent for so long that it has fenced itself.
 *
 * That a connection broke says nothing: the server may still be reached by readers. What is neither is waited for.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, CairnError } from '../../core/errors.js';
import type { ChunkHandle } from '../../core/ids.js';
import { CHUNKSERVER_DEAD_MS, HEARTBEAT_INTERVAL_MS, LEAVE_OUT_TIMEOUT_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { ServerRegistry } from '../servers/servers.js';

/** A server that does not answer is dead within this. */
const MAX_WAIT_MS = CHUNKSERVER_DEAD_MS + HEARTBEAT_INTERVAL_MS;

export class ReadFence {
  /** The registration under which a server answered. */
  private readonly answered = new Map<number, number>();
  private readonly deadlineMs: number;

  constructor(
    private readonly deps: { readonly clock: Clock; readonly logger: Logger; readonly servers: ServerRegistry },
    private readonly chunk: { readonly handle: ChunkHandle; readonly leaseId: number },
  ) {
    this.deadlineMs = deps.clock.monotonicMs() + MAX_WAIT_MS;
  }

  /** Whether none of `ids` serves the chunk now. To be asked in the same turn in which that is relied on. */
  stands(ids: readonly number[]): boolean {
    return ids.every((id) => this.standsAt(id));
  }

  /** Resolves when it stood a moment ago. UNAVAILABLE when that cannot be had in time. */
  async raise(ids: readonly number[]): Promise<void> {
    await Promise.all(ids.map((id) => this.raiseAt(id)));
  }

  private standsAt(id: number): boolean {
    const { servers } = this.deps;
    const registrations = servers.get(id)?.registrations;
    return servers.liveness(id) === 'dead' || (registrations ?? 0) === this.answered.get(id);
  }

  private async raiseAt(id: number): Promise<void> {
    const { servers, clock } = this.deps;
    while (!this.standsAt(id)) {
      const registrations = servers.get(id)?.registrations ?? 0;
      if (await this.ask(id)) {
        this.answered.set(id, registrations);
        continue;
      }
      if (clock.monotonicMs() >= this.deadlineMs) {
        throw new CairnError('UNAVAILABLE', `chunkserver ${id} may still serve chunk ${this.chunk.handle} to readers`);
      }
      const changed = (): boolean =>
        servers.liveness(id) === 'dead' || servers.get(id)?.registrations !== registrations;
      await servers.waitUntil(changed, LEAVE_OUT_TIMEOUT_MS);
    }
  }

  private async ask(id: number): Promise<boolean> {
    const { servers, logger } = this.deps;
    const { handle, leaseId } = this.chunk;
    try {
      if (!servers.isUp(id)) return false;
      await servers.calls.leaveOut(id, handle, leaseId);
      return true;
    } catch (error) {
      logger.info({ chunk: handle, server: id, error: asCairnError(error).message }, 'replica not left out yet');
      return false;
    }
  }
}
