/**
 * Chunks that servers have made and leased, and that are no part of a file yet. To write into a hole takes one, which
 * costs a round trip to every member and the making of their files; so when chunks are asked for often, some are made
 * ahead: as many as the last second took. They are in memory only: a restarted master finds replicas that its state
 * does not know and has them deleted.
 */
import type { Clock } from '../../core/clock.js';
import { asCairnError, CairnError, isNoSpace } from '../../core/errors.js';
import { chunkHandle, leaseId } from '../../core/ids.js';
import type { ChunkHandle, LeaseId, ServerId } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  EXPECTED_SERVER_WAIT_MS,
  LEASE_TTL_MS,
  MAX_PLACEMENT_ATTEMPTS,
  MAX_SPARES_IN_MAKING,
  SPARE_AGE_MS,
} from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { Random } from '../../core/random.js';
import { unawaited } from '../../core/sync.js';
import type { IdReserve } from '../state/id-reserve.js';
import { chooseServers, placementError } from '../servers/placement.js';
import type { MadeReplicas } from './made-replicas.js';
import type { ChunkConfig, StraySink } from './chunk-recovery.js';
import type { ServerRegistry } from '../servers/servers.js';

/** At version 1, under a lease that all members hold. */
export interface NewChunk {
  readonly handle: ChunkHandle;
  readonly leaseId: LeaseId;
  /** The primary first. */
  readonly members: readonly ServerId[];
  /** The lease, by the master's monotonic clock. */
  readonly expiresMs: number;
}

export const NEW_CHUNK_VERSION = 1;

export class NewChunks {
  /** Servers may have replicas of them, the state knows nothing of them. */
  private readonly unattached = new Set<ChunkHandle>();
  /** Made ahead, oldest first. */
  private readonly spares = new Set<NewChunk>();
  private sparesInMaking = 0;
  /** Spares to have, and how many chunks were asked for since the last tick. */
  private wantedSpares = 0;
  private asked = 0;

  constructor(
    private readonly deps: {
      readonly clock: Clock;
      readonly random: Random;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly handles: IdReserve;
      readonly leaseIds: IdReserve;
      readonly config: ChunkConfig;
      readonly maxSpares: number;
      readonly onStray: StraySink;
      readonly made: MadeReplicas;
    },
  ) {}

  /** True for a handle that no state knows and whose replicas are not to be deleted for that. */
  isUnattached(handle: ChunkHandle): boolean {
    return this.unattached.has(handle);
  }

  /** A chunk made ahead. The caller must `attach` or `discard` it. */
  takeSpare(): NewChunk | undefined {
    this.asked++;
    this.wantedSpares = Math.min(this.deps.maxSpares, Math.max(this.wantedSpares, this.asked));
    let taken: NewChunk | undefined;
    for (const spare of this.spares) {
      this.spares.delete(spare);
      if (this.isFit(spare)) {
        taken = spare;
        break;
      }
      this.discard(spare);
    }
    this.makeSpares();
    return taken;
  }

  /**
   * Makes a chunk. The caller must `attach` or `discard` it. `lostBytes`: of a lost chunk that it takes the place of.
   */
  async make(lostBytes: number): Promise<NewChunk> {
    const { servers, random, config } = this.deps;
    const avoided = new Set<ServerId>();
    let failure: CairnError | undefined;
    if (servers.all().every((server) => server.peer === null)) {
      await servers.waitUntil(() => servers.all().some((server) => server.peer !== null), EXPECTED_SERVER_WAIT_MS);
    }
    for (let attempt = 0; attempt < MAX_PLACEMENT_ATTEMPTS; attempt++) {
      const all = servers.all();
      const chosen = chooseServers({ servers: all, count: config.wantedReplicas, exclude: avoided, random });
      if (chosen.length < config.minReplicas) throw failure ?? placementError(all, chosen.length, config.minReplicas);
      const members = chosen.map((server) => server.id);
      const outcome = await this.makeOn(members, lostBytes);
      if (outcome.chunk !== undefined) return outcome.chunk;
      failure = outcome.error;
      for (const id of outcome.failed) avoided.add(id);
    }
    const code = isNoSpace(failure) ? 'ENOSPC' : 'UNAVAILABLE';
    throw new CairnError(code, `no chunkservers took a new chunk: ${failure?.message ?? ''}`);
  }

  /** The state knows the chunk now. */
  attach({ handle, members }: NewChunk): void {
    this.unattached.delete(handle);
    for (const id of members) this.deps.made.take(handle, id);
  }

  /** Nobody wants the chunk: its replicas are deleted. */
  discard({ handle, members }: NewChunk): void {
    this.unattached.delete(handle);
    for (const id of members) {
      this.deps.made.take(handle, id);
      this.deps.onStray(handle, NEW_CHUNK_VERSION, id);
    }
  }

  /** A server's connection ended: it may know nothing any more of leases that it had. */
  dropServer(server: ServerId): void {
    for (const spare of this.spares) if (spare.members.includes(server)) this.drop(spare);
  }

  /** What was made ahead is given up: its handles may have been given before. */
  dropAll(): void {
    for (const spare of this.spares) this.drop(spare);
  }

  /** To be called every second: fits the number of spares to the demand, and replaces old ones. */
  tick(): void {
    this.wantedSpares = Math.min(this.deps.maxSpares, Math.max(this.asked, Math.floor(this.wantedSpares / 2)));
    this.asked = 0;
    for (const spare of this.spares) if (!this.isFit(spare)) this.drop(spare);
    this.makeSpares();
  }

  private drop(spare: NewChunk): void {
    this.spares.delete(spare);
    this.discard(spare);
  }

  /** Its lease is young enough to be handed out without a renewal, and its members are there. */
  private isFit({ handle, members, expiresMs }: NewChunk): boolean {
    const { clock, servers, made } = this.deps;
    if (expiresMs - clock.monotonicMs() <= LEASE_TTL_MS - SPARE_AGE_MS) return false;
    return members.every((id) => servers.isUp(id) && made.isThere(handle, id));
  }

  private makeSpares(): void {
    while (this.sparesInMaking < MAX_SPARES_IN_MAKING && this.spares.size + this.sparesInMaking < this.wantedSpares) {
      this.sparesInMaking++;
      unawaited(this.makeSpare(), this.deps.logger, 'making a chunk ahead');
    }
  }

  /** Never rejects. */
  private async makeSpare(): Promise<void> {
    try {
      const spare = await this.make(0);
      this.spares.add(spare);
      this.sparesInMaking--;
      this.makeSpares();
    } catch (error) {
      // Whoever needs a chunk tries by himself, and is told why it fails.
      this.wantedSpares = 0;
      this.sparesInMaking--;
      this.deps.logger.info({ error: asCairnError(error).message }, 'no chunk could be made ahead');
    }
  }

  private async makeOn(
    members: readonly ServerId[],
    lostBytes: number,
  ): Promise<{ chunk?: NewChunk; failed: readonly ServerId[]; error?: CairnError }> {
    const { clock, servers, logger, handles, leaseIds, made } = this.deps;
    const [primary] = members;
    if (primary === undefined) throw new CairnError('INTERNAL', 'a chunk on no server');
    const handle = chunkHandle(await handles.take());
    this.unattached.add(handle);
    try {
      const id = leaseId(await leaseIds.take());
      const request = {
        handle,
        version: NEW_CHUNK_VERSION,
        leaseId: id,
        leaseTtlMs: LEASE_TTL_MS,
        primary,
        replicas: members.map((member) => servers.replica(member)),
        create: true,
        validBytes: CHUNK_SIZE_BYTES,
        lostBytes,
      };
      let error: CairnError | undefined;
      const failed: ServerId[] = [];
      const taken = new Set<ServerId>();
      const send = async (member: ServerId): Promise<void> => {
        try {
          await servers.calls.grantLease(member, request);
          made.note(handle, member);
        } catch (cause) {
          error = asCairnError(cause);
          failed.push(member);
          if (error.code === 'EEXIST') taken.add(member);
          logger.warn({ chunk: handle, server: member, error: error.message }, 'chunkserver did not take a new chunk');
        }
      };
      await Promise.all(members.map(send));
      // Gone again while another server took its time.
      failed.push(...members.filter((member) => !failed.includes(member) && !made.isThere(handle, member)));
      const chunk = { handle, leaseId: id, members, expiresMs: clock.monotonicMs() + LEASE_TTL_MS };
      if (failed.length === 0) return { chunk, failed };
      // What has this handle on a server from before is not the chunk that was to be made.
      this.discard({ ...chunk, members: members.filter((id) => !taken.has(id)) });
      return { failed, ...(error === undefined ? {} : { error }) };
    } catch (error) {
      this.unattached.delete(handle);
      throw error;
    }
  }
}
