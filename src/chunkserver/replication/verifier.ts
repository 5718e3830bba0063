/** Reads whole replicas against their checksums, at a rate that leaves the disks to others. */
import { sleep } from '../../core/clock.js';
import type { Clock } from '../../core/clock.js';
import { chunkHandle, type ChunkHandle } from '../../core/ids.js';
import {
  CHUNK_SIZE_BYTES,
  MAX_PAYLOAD_BYTES,
  MAX_VERIFICATIONS,
  MAX_WAITING_VERIFICATIONS,
  VERIFY_PAUSE_MS,
} from '../../core/limits.js';
import { payloadBuffers } from '../../core/disk/payload-buffers.js';
import { Semaphore } from '../../core/sync.js';
import type { VerifyReplicaReplyInit, VerifyReplicaRequest } from '../../protocol/generated/messages.js';
import type { ChunkStore } from '../store/chunk-store.js';
import type { Replicas } from './replicas.js';

export class Verifier {
  private readonly permits = new Semaphore(MAX_VERIFICATIONS, MAX_WAITING_VERIFICATIONS);

  constructor(
    private readonly clock: Clock,
    private readonly store: ChunkStore,
    private readonly replicas: Replicas,
  ) {}

  /** Fails as a read does when there is no such replica. */
  async verify({ handle: asked, version }: VerifyReplicaRequest): Promise<VerifyReplicaReplyInit> {
    const handle = chunkHandle(asked);
    const release = await this.permits.acquire();
    try {
      // Given up with its permit when the disk does not answer.
      return await this.store.answering(handle, () => this.readWhole(handle, version));
    } finally {
      release();
    }
  }

  private async readWhole(handle: ChunkHandle, version: number): Promise<VerifyReplicaReplyInit> {
    let damagedBlocks = 0;
    for (let offset = 0; offset < CHUNK_SIZE_BYTES; offset += MAX_PAYLOAD_BYTES) {
      if (offset > 0) await sleep(this.clock, VERIFY_PAUSE_MS);
      this.replicas.checkVersion(handle, version);
      const { bytes, damaged } = await this.store.use(handle, (file) => file.readSound(offset, MAX_PAYLOAD_BYTES));
      damagedBlocks += damaged.length;
      if (damaged.length === 0) payloadBuffers.giveBack(bytes);
      if (bytes.length < MAX_PAYLOAD_BYTES) break;
    }
    return { damagedBlocks };
  }
}
