/**
 * What a chunkserver reports, against what the state believes of it. A page covers a range of handles:
 *
 *   the server has, we do not know            orphan: delete
 *   the server has, it is no member           stale (P9): delete
 *   it is a member, with an older version     lost: delete, suspect
 *   it is a member, under mutation when its machine went down    suspect
 *   it is a member, the page does not name it                    lost: suspect
 *
 * A suspect is not served and not a source; recovery compares it with the others and keeps it, mended, or leaves it
 * out under a new version. So every loss of a member goes one way.
 */
import type { Clock } from '../core/clock.js';
import { sleep } from '../core/clock.js';
import { CairnError } from '../core/errors.js';
import { chunkHandle } from '../core/ids.js';
import type { ChunkHandle, ServerId } from '../core/ids.js';
import { MAX_REPORT_ENTRIES } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { ReplicaState, ReplicaVersion, ReportReplyInit, ReportRequest } from '../protocol/generated/messages.js';
import { getChunk, saveChunk } from './chunk-map.js';
import { keys, PREFIX_LENGTH, prefixRange, packNumber, unpackNumber } from './keys.js';
import type { Recovery } from './recovery.js';
import type { Server } from './servers.js';
import type { State } from './state.js';

/** Believed replicas that are looked at in one go, before other work gets its turn. */
const SLICE = 1024;

export interface ReportDeps {
  readonly state: State;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly recovery: Recovery;
  readonly wantedReplicas: number;
  /** Replicas that are being made now, of which the state does not know yet. */
  readonly isInMaking: (handle: ChunkHandle, server: ServerId) => boolean;
  /** A chunk that has become doubtful. */
  readonly onDoubt: (handle: ChunkHandle) => void;
}

/** Handles one page; the reply names the replicas to delete. */
export async function takeReport(deps: ReportDeps, server: Server, request: ReportRequest): Promise<ReportReplyInit> {
  const { replicas, afterHandle } = request;
  if (replicas.length > MAX_REPORT_ENTRIES) {
    throw new CairnError('PROTOCOL', `a page of a report has at most ${MAX_REPORT_ENTRIES} replicas`);
  }
  const last = request.upToHandle === 0 ? Number.MAX_SAFE_INTEGER : request.upToHandle;
  const named = new Map<number, ReplicaState>();
  for (const replica of replicas) {
    if (replica.handle <= afterHandle || replica.handle > last) {
      throw new CairnError('PROTOCOL', `replica ${replica.handle} is outside of its page`);
    }
    named.set(replica.handle, replica);
  }
  const toDelete: ReplicaVersion[] = [];
  const suspects: ChunkHandle[] = [];
  for (const replica of replicas) {
    const verdict = judge(deps, server, replica);
    if (verdict === 'delete' || verdict === 'replace') {
      toDelete.push({ handle: replica.handle, version: replica.version });
    }
    if (verdict === 'suspect' || verdict === 'replace') suspects.push(chunkHandle(replica.handle));
  }
  markSuspects(deps, server, suspects);
  await findLost(deps, server, { after: afterHandle, last, named });
  if (request.upToHandle === 0) {
    server.reported = true;
    deps.logger.info({ server: server.id }, 'chunkserver has reported all its replicas');
  }
  return { delete: toDelete };
}

function judge(deps: ReportDeps, server: Server, replica: ReplicaState): 'keep' | 'delete' | 'replace' | 'suspect' {
  const { state, logger } = deps;
  const handle = chunkHandle(replica.handle);
  if (deps.isInMaking(handle, server.id)) return 'keep';
  const record = getChunk(state, handle);
  if (record === undefined || state.get(keys.garbage(handle)) !== undefined) return 'delete';
  if (!record.servers.includes(server.id)) {
    // The last replica was given up for lost and turns up after all: nothing was written since.
    const returns = record.servers.length === 0 && replica.version >= record.version;
    if (!returns) return 'delete';
    logger.warn({ chunk: handle, server: server.id }, 'a lost replica is back');
    state.mutate((m) => {
      record.servers.push(server.id);
      record.lastVersion = Math.max(record.lastVersion, replica.version);
      record.needsRecovery = true;
      saveChunk(m, handle, record, deps.wantedReplicas);
    });
    return 'suspect';
  }
  if (replica.version < record.version) return 'replace';
  if (replica.version > record.lastVersion) {
    logger.error({ chunk: handle, server: server.id, version: replica.version }, 'a replica is newer than any version');
    state.mutate((m) => {
      record.lastVersion = replica.version;
      saveChunk(m, handle, record, deps.wantedReplicas);
    });
    return 'suspect';
  }
  if (replica.version > record.version && !record.needsRecovery) return 'suspect';
  return replica.suspect ? 'suspect' : 'keep';
}

/** Replicas that the state believes to be here and the page does not name. */
async function findLost(
  deps: ReportDeps,
  server: Server,
  page: { readonly after: number; readonly last: number; readonly named: ReadonlyMap<number, ReplicaState> },
): Promise<void> {
  const { peer, reportHorizon } = server;
  const end = prefixRange('R' + packNumber(server.id)).end;
  let after = page.after;
  for (;;) {
    const lost: ChunkHandle[] = [];
    let seen = 0;
    let ended = true;
    for (const [key] of deps.state.range({ start: keys.serverChunk(server.id, chunkHandle(after + 1)), end })) {
      const handle = chunkHandle(unpackNumber(key, PREFIX_LENGTH));
      if (handle > page.last || handle >= reportHorizon) break;
      if (seen++ === SLICE) {
        ended = false;
        break;
      }
      after = handle;
      if (!page.named.has(handle)) lost.push(handle);
    }
    if (lost.length > 0) deps.logger.warn({ server: server.id, count: lost.length }, 'chunkserver lost replicas');
    markSuspects(deps, server, lost);
    if (ended) return;
    await sleep(deps.clock, 0);
    if (server.peer !== peer) throw new CairnError('DISCONNECTED', `chunkserver ${server.id} left during its report`);
  }
}

function markSuspects(deps: ReportDeps, server: Server, handles: readonly ChunkHandle[]): void {
  if (handles.length === 0) return;
  deps.state.mutate((m) => {
    for (const handle of handles) deps.recovery.markDoubtful(m, handle, [server.id]);
  });
  for (const handle of handles) deps.onDoubt(handle);
}
