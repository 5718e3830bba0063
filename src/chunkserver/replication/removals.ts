/** Replicas that the master does not want here: deleted, or set aside where it does not know their chunk. */
import { asCairnError, hasCode, type ErrorCode } from '../../core/errors.js';
import { chunkHandle, chunkVersion, type ChunkHandle, type ChunkVersion } from '../../core/ids.js';
import type { Logger } from '../../core/logging/logger.js';
import type { ReplicaVersion } from '../../protocol/generated/messages.js';
import type { ChunkStore } from '../store/chunk-store.js';
import type { BegunSince } from '../store/making.js';
import type { Replicas } from './replicas.js';
import { MAX_DELETIONS_AT_ONCE } from '../../core/limits.js';

/** Errors at one replica, for which a report does not fail: or one bad file would keep the whole server from joining. */
const OF_ONE_REPLICA: readonly ErrorCode[] = [
  ...(['UNAVAILABLE', 'TIMEOUT', 'NO_REPLICA', 'CORRUPT', 'EIO', 'ENOSPC', 'EDQUOT'] as const),
  ...(['EROFS', 'ENODEV', 'ENXIO'] as const),
];

export class Removals {
  constructor(
    private readonly options: { readonly store: ChunkStore; readonly replicas: Replicas; readonly logger: Logger },
  ) {}

  /**
   * Unless it was begun since the moment of `begun`. While its disk does not answer or fails at it, a replica is only known here no
   * more: the next start reports it again.
   */
  async setAside({ handle: number, version: least }: ReplicaVersion, begun: BegunSince): Promise<void> {
    const { replicas, store, logger } = this.options;
    const [handle, version] = [chunkHandle(number), chunkVersion(least)];
    if (store.index.get(handle) === undefined) return;
    let isGivenUp = false;
    const put = async (): Promise<void> => {
      if (!isGivenUp) await store.departures.setAside(handle, version, begun);
    };
    try {
      await store.answering(handle, () => replicas.exclusive(handle, put));
    } catch (error) {
      demandOfOneReplica(error);
      isGivenUp = true;
      if (!begun.has(handle)) store.departures.disown(handle, version);
      const reason = asCairnError(error).message;
      logger.warn({ handle, version, reason }, 'unknown replica left where it is: the next start reports it again');
    }
  }

  /**
   * Deletes replicas, each at its version or lower and not begun since the moment of `begun`. While its disk does not
   * answer, one is only known here no more.
   */
  async remove(versions: readonly ReplicaVersion[], begun: BegunSince): Promise<void> {
    const left = [...versions];
    const worker = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        await this.removeOne(chunkHandle(next.handle), chunkVersion(next.version), begun);
      }
    };
    await Promise.all(Array.from({ length: MAX_DELETIONS_AT_ONCE }, worker));
  }

  private async removeOne(handle: ChunkHandle, version: ChunkVersion, begun: BegunSince): Promise<void> {
    const { replicas, store, logger } = this.options;
    let isGivenUp = false;
    const remove = async (): Promise<void> => {
      if (!isGivenUp) await store.departures.remove(handle, version, begun);
    };
    try {
      // One that is not there may be about to be: the store lets it come to its end first.
      await store.answering(handle, () =>
        store.index.get(handle) === undefined ? remove() : replicas.exclusive(handle, remove),
      );
    } catch (error) {
      if (!hasCode(error, 'UNAVAILABLE', 'TIMEOUT')) throw error;
      isGivenUp = true;
      if (!begun.has(handle)) store.departures.disown(handle, version);
      logger.info({ handle, version }, 'replica left on a disk that does not answer: the next start deletes it');
    }
  }
}

/** Fails as before, unless the error is one of a single replica, for which the others need not wait. */
export function demandOfOneReplica(error: unknown): void {
  if (!hasCode(error, ...OF_ONE_REPLICA)) throw error;
}
