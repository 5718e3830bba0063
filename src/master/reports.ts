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
import { CairnError } from '../core/errors.js';
import { chunkHandle } from '../core/ids.js';
import type { ChunkHandle, ServerId } from '../core/ids.js';
import { MAX_REPORT_ENTRIES } from '../core/limits.js';
import type { Logger } from '../core/logger.js';
import type { ReplicaState, ReplicaVersion, ReportReplyInit, ReportRequest } from '../protocol/generated/messages.js';
import { getChunk, makeLossAnError, saveChunk } from './chunk-map.js';
import { keys, PREFIX_LENGTH, prefixRange, packNumber, unpackNumber } from './keys.js';
import type { Recovery } from './recovery.js';
import type { Server } from './servers.js';
import type { State } from './state.js';

/** Lost replicas that are marked in one go, before other work gets its turn. */
const MAX_LOST_AT_ONCE = 256;

export interface ReportDeps {
  readonly state: State;
  readonly logger: Logger;
  readonly recovery: Recovery;
  readonly wantedReplicas: number;
  /** Replicas that are being made now, of which the state does not know yet. */
  readonly isInMaking: (handle: ChunkHandle, server: ServerId) => boolean;
  /** A chunk that has become doubtful. */
  readonly onDoubt: (handle: ChunkHandle) => void;
}

/**
 * Handles one page; the reply names the replicas to delete.
 *
 * Nothing is awaited here, so that what the state believes is what it believed when the page came. A replica is
 * believed once its server has said that it is made, and a server reads its page in the moment in which it sends it: what
 * was made before is named, and what is made now is not believed yet. So a replica that is not named is lost, whenever
 * its chunk was made.
 */
export function takeReport(deps: ReportDeps, server: Server, request: ReportRequest): ReportReplyInit {
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
  const { lost, upTo, isWhole } = findLost(deps, server, { after: afterHandle, last, named });
  const toDelete: ReplicaVersion[] = [];
  const suspects: ChunkHandle[] = [];
  for (const replica of replicas) {
    if (replica.handle > upTo) continue;
    const verdict = judge(deps, server, replica);
    if (verdict === 'delete' || verdict === 'replace') {
      toDelete.push({ handle: replica.handle, version: replica.version });
    }
    if (verdict === 'suspect' || verdict === 'replace') suspects.push(chunkHandle(replica.handle));
  }
  if (lost.length > 0) deps.logger.warn({ server: server.id, count: lost.length }, 'chunkserver lost replicas');
  if (lost.length > 0 && !request.afterPowerLoss) {
    deps.state.mutate((m) => {
      for (const handle of lost) makeLossAnError(m, handle);
    });
  }
  markSuspects(deps, server, [...suspects, ...lost]);
  if (!isWhole) return { delete: toDelete, upToHandle: upTo };
  if (request.upToHandle === 0) {
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

/**
 * Replicas that the state believes to be here and the page does not name, up to a handle so far that not too many are
 * found at once.
 */
function findLost(
  { state }: ReportDeps,
  server: Server,
  page: { readonly after: number; readonly last: number; readonly named: ReadonlyMap<number, ReplicaState> },
): { readonly lost: ChunkHandle[]; readonly upTo: number; readonly isWhole: boolean } {
  const lost: ChunkHandle[] = [];
  const start = keys.serverChunk(server.id, chunkHandle(page.after + 1));
  let seen = 0;
  for (const [key] of state.range({ start, end: prefixRange('R' + packNumber(server.id)).end })) {
    const handle = chunkHandle(unpackNumber(key, PREFIX_LENGTH));
    if (handle > page.last) break;
    if (!page.named.has(handle)) lost.push(handle);
    if (lost.length === MAX_LOST_AT_ONCE || ++seen === MAX_REPORT_ENTRIES) {
      return { lost, upTo: handle, isWhole: false };
    }
  }
  return { lost, upTo: page.last, isWhole: true };
}

function markSuspects(deps: ReportDeps, server: Server, handles: readonly ChunkHandle[]): void {
  if (handles.length === 0) return;
  deps.state.mutate((m) => {
    for (const handle of handles) deps.recovery.markDoubtful(m, handle, [server.id]);
  });
  for (const handle of handles) deps.onDoubt(handle);
}
