/** What a reader tells the master of a replica that it could not read: once in a while for each, whoever reads it. */
import type { Clock } from '../../core/clock.js';
import { asCairnError, errorNumber } from '../../core/errors.js';
import type { CairnError, ErrorCode } from '../../core/errors.js';
import { MAX_REMEMBERED_REPLICA_REPORTS, REPLICA_REPORT_INTERVAL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { MASTER_METHODS } from '../../protocol/methods.js';
import { LruMap } from '../../core/lru.js';
import type { MasterConnection } from './master-connection.js';

/** Errors that say something of the replica, not of the way to it. */
const TELLING: ReadonlySet<ErrorCode> = new Set(['CORRUPT', 'NO_REPLICA', 'STALE_VERSION', 'EIO']);

export class BadReplicaReports {
  private readonly toldMs = new LruMap<string, number>(MAX_REMEMBERED_REPLICA_REPORTS);

  constructor(
    private readonly deps: {
      readonly clock: Clock;
      readonly logger: Logger;
      readonly master: Pick<MasterConnection, 'call'>;
    },
  ) {}

  /** `error`: of a read of the replica at `version` at that server. Does not wait. */
  tell(
    replica: { readonly handle: number; readonly version: number; readonly serverId: number },
    error: CairnError,
  ): void {
    if (!TELLING.has(error.code)) return;
    const { clock, logger, master } = this.deps;
    const key = `${replica.handle}:${replica.serverId}`;
    const nowMs = clock.monotonicMs();
    if (nowMs - (this.toldMs.get(key) ?? -Infinity) < REPLICA_REPORT_INTERVAL_MS) return;
    this.toldMs.set(key, nowMs);
    const report = { ...replica, errorCode: errorNumber(error.code) };
    master.call(MASTER_METHODS.reportReplica, report).catch((cause: unknown) => {
      logger.warn({ chunk: replica.handle, reason: asCairnError(cause).message }, 'bad replica could not be reported');
    });
  }
}
