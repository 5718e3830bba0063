/**
 * Chunks with blocks that no replica has whole: a recovery or a copy found them (`ChunkRecord.damaged_blocks`), and an
 * administrator sees how many there are. That a writer has replaced such a block, or a cut removed it, nobody tells: the members
 * are read now and then, until all of them are whole. Where nobody had a lease since, they are as they were, unless a disk reads
 * again what it did not: that is looked for once a day.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError } from '../../core/errors.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import { unawaited } from '../../core/sync.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { State } from '../state/state.js';
import { getChunk, isGone, saveChunk } from '../tables/chunk-records.js';
import { isLeased } from '../tables/lease-records.js';
import { Backoffs } from './backoffs.js';
import {
  MAX_DAMAGED_LOOKING,
  DAMAGED_LOOK_PAUSE_MIN_MS,
  DAMAGED_LOOK_PAUSE_MAX_MS,
  DAMAGED_UNCHANGED_PAUSE_MS,
  MAX_DAMAGED_CHUNKS,
} from '../../core/limits.js';

export class DamagedChunks {
  private readonly looking = new Set<ChunkHandle>();
  private readonly pauses: Backoffs<ChunkHandle>;
  /** What was found damaged, as it was then. */
  private readonly found = new Map<ChunkHandle, { readonly state: string; readonly atMs: number }>();

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly wantedReplicas: number;
    },
  ) {
    this.pauses = new Backoffs(deps.clock, {
      minMs: DAMAGED_LOOK_PAUSE_MIN_MS,
      maxMs: DAMAGED_LOOK_PAUSE_MAX_MS,
      maxEntries: MAX_DAMAGED_CHUNKS,
    });
  }

  /** To be called again and again for each that is known: has its members read when that is due. */
  look(handle: ChunkHandle): void {
    if (this.looking.size >= MAX_DAMAGED_LOOKING || this.looking.has(handle) || !this.pauses.isDue(handle)) return;
    if (this.isAsFound(handle)) return;
    this.pauses.attempted(handle);
    this.looking.add(handle);
    const looked = this.lookNow(handle).finally(() => this.looking.delete(handle));
    unawaited(looked, this.deps.logger, 'looking at a damaged chunk');
  }

  private isAsFound(handle: ChunkHandle): boolean {
    const found = this.found.get(handle);
    if (found?.state !== this.stateOf(handle)) return false;
    return found !== undefined && this.deps.clock.monotonicMs() < found.atMs + DAMAGED_UNCHANGED_PAUSE_MS;
  }

  /** Changes when the chunk may have; undefined while somebody may write it. */
  private stateOf(handle: ChunkHandle): string | undefined {
    const record = getChunk(this.deps.state, handle);
    if (record === undefined || isLeased(this.deps.state, handle)) return undefined;
    return [record.version, record.lastLease, ...record.servers].join(' ');
  }

  private noteFound(handle: ChunkHandle, state: string | undefined): void {
    this.found.delete(handle);
    if (state === undefined) return;
    this.found.set(handle, { state, atMs: this.deps.clock.monotonicMs() });
    for (const oldest of this.found.keys()) {
      if (this.found.size <= MAX_DAMAGED_CHUNKS) break;
      this.found.delete(oldest);
    }
  }

  /** Never rejects. */
  private async lookNow(handle: ChunkHandle): Promise<void> {
    const { state, servers, logger, wantedReplicas } = this.deps;
    const before = getChunk(state, handle);
    if (before === undefined || before.needsRecovery || before.servers.length === 0) return;
    const members = before.servers as ServerId[];
    const seen = this.stateOf(handle);
    if (!members.every((id) => servers.isUp(id))) return;
    try {
      const damaged = await Promise.all(members.map((id) => servers.calls.verifyReplica(id, handle, before.version)));
      if (damaged.some((count) => count > 0)) {
        this.noteFound(handle, seen);
        return;
      }
      state.mutate((m) => {
        const record = getChunk(m, handle);
        // A recovery or a copy may have found some since.
        if (record?.version !== before.version || record.servers.length > members.length || isGone(m, handle)) return;
        record.damagedBlocks = 0;
        saveChunk(m, handle, record, wantedReplicas);
      });
      this.pauses.forget(handle);
      this.found.delete(handle);
      logger.info({ chunk: handle }, 'a chunk with damaged blocks is whole again');
    } catch (error) {
      logger.info({ chunk: handle, error: asCairnError(error).message }, 'a damaged chunk could not be read');
    }
  }
}
