/**
 * What a chunkserver reports, against what the state believes of it. A page covers a range of handles:
 *
 *   the server has, we deleted it             delete
 *   the server has, we do not know            aside: it may be of a past that this state does not have (timeline.ts)
 *   the server has, it is no member           stale (P9): kept until the members are verified; aside when the server comes from another past
 *   the server has a version above all ours   this state was put back: that version is the newest, the others are in doubt
 *   it is a member, with an older version     it is one no longer: stale
 *   it is a member, under mutation when its machine went down    suspect
 *   it is a member, the page does not name it                    lost: suspect; no member, if the power took it unsynced
 *
 * A suspect is not served and not a source; recovery compares it with the others and keeps it, mended, or leaves it
 * out under a new version. So every loss of a member goes one way.
 */
import { CairnError } from '../../core/errors.js';
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import { MAX_LOST_AT_ONCE, MAX_REPORT_ENTRIES } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type {
  ChunkRecord,
  ReplicaState,
  ReplicaVersion,
  ReportAsideReplyInit,
  ReportAsideRequest,
  ReportReplyInit,
  ReportRequest,
} from '../../protocol/generated/messages.js';
import {
  getChunk,
  isGarbage,
  makeLossAnError,
  mayBringBack,
  saveChunk,
  takeOutMember,
} from '../tables/chunk-records.js';
import { isSameTimeline } from '../state/counters.js';
import { keys, PREFIX_LENGTH, prefixRange, packNumber, unpackNumber } from '../state/keys.js';
import type { MadeReplicas } from './made-replicas.js';
import type { ChunkRecovery, StraySink } from './chunk-recovery.js';
import type { Server, ServerRegistry } from '../servers/servers.js';
import type { Mutation, State } from '../state/state.js';
import type { Key } from '../store/store.js';

export interface ReportDeps {
  readonly state: State;
  readonly logger: Logger;
  readonly servers: ServerRegistry;
  readonly recovery: ChunkRecovery;
  readonly wantedReplicas: number;
  /** Replicas that are being made now, of which the state does not know yet. */
  readonly isInMaking: (handle: ChunkHandle, server: ServerId) => boolean;
  /** Of these, what is made already, as far as its server has said. */
  readonly made: MadeReplicas;
  /** A replica that is no member. */
  readonly onStale: StraySink;
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
  deps.made.lose(server.id, (handle) => {
    return handle > afterHandle && handle <= upTo && named.get(handle)?.suspect !== false;
  });
  const toDelete: ReplicaVersion[] = [];
  const aside: ReplicaVersion[] = [];
  const leaveOut: ReplicaVersion[] = [];
  const suspects: ChunkHandle[] = [];
  for (const replica of replicas) {
    if (replica.handle > upTo) continue;
    const verdict = judge(deps, server, replica);
    if (verdict === 'delete') toDelete.push({ handle: replica.handle, version: replica.version });
    if (verdict === 'stale' || verdict === 'older' || verdict === 'replaced') {
      leaveOut.push({ handle: replica.handle, version: replica.version });
    }
    if (verdict === 'stale') deps.onStale(chunkHandle(replica.handle), replica.version, server.id);
    if (verdict === 'aside') aside.push({ handle: replica.handle, version: replica.version });
    if (verdict === 'suspect' || verdict === 'older') suspects.push(chunkHandle(replica.handle));
  }
  if (lost.length > 0) deps.logger.warn({ server: server.id, count: lost.length }, 'chunkserver lost replicas');
  if (lost.length > 0 && !request.disksAway) {
    deps.state.mutate((m) => {
      for (const handle of lost) {
        if (request.afterPowerLoss) giveUpUnsynced(m, handle, server.id, deps.wantedReplicas);
        else makeLossAnError(m, handle);
      }
    });
  }
  markSuspects(deps, server, [...suspects, ...lost]);
  forgetDeletions(deps, server, { after: afterHandle, last: upTo, named });
  server.judgedUpTo = Math.max(server.judgedUpTo, upTo);
  if (aside.length > 0) {
    deps.logger.warn({ server: server.id, count: aside.length }, 'replicas of unknown chunks: they are kept aside');
  }
  if (!isWhole) return { delete: toDelete, aside, leaveOut, upToHandle: upTo };
  if (request.upToHandle === 0) {
    deps.logger.info({ server: server.id }, 'chunkserver has reported all its replicas');
  }
  return { delete: toDelete, aside, leaveOut };
}

/**
 * The power took a replica of which nothing was synced. It is a member no longer: the next report of its server, which does not
 * name it either, may come before a recovery, and would make an error of a loss that is none.
 */
function giveUpUnsynced(m: Mutation, handle: ChunkHandle, server: ServerId, wantedReplicas: number): void {
  const record = getChunk(m, handle);
  if (record?.unsynced !== true || isGarbage(m, handle)) return;
  takeOutMember(record, server);
  record.needsRecovery = true;
  saveChunk(m, handle, record, wantedReplicas);
}

/** `older`: as a suspect, and served to nobody: the one that the server is a member with may be on a disk that is away. */
type Verdict = 'keep' | 'replaced' | 'delete' | 'aside' | 'stale' | 'older' | 'suspect';

function judge(deps: ReportDeps, server: Server, replica: ReplicaState): Verdict {
  const { state, logger } = deps;
  const handle = chunkHandle(replica.handle);
  const record = getChunk(state, handle);
  if (deps.isInMaking(handle, server.id)) {
    // What a copy is to take the place of is as stale as before, and is read until that comes (P9).
    const isOld = record !== undefined && !record.servers.includes(server.id) && replica.version < record.version;
    return isOld ? 'replaced' : 'keep';
  }
  if (record === undefined) return state.get(keys.deletion(server.id, handle)) === undefined ? 'aside' : 'delete';
  if (isGarbage(state, handle)) return 'delete';
  if (replica.version > record.lastVersion) {
    if (!isOfNewerState(server, record, replica.version)) return 'aside';
    takeNewer(deps, server, handle, replica.version);
    return replica.suspect ? 'suspect' : 'keep';
  }
  if (!record.servers.includes(server.id)) {
    // The last replica was given up for lost and turns up after all: nothing was written since.
    const returns = record.servers.length === 0 && replica.version >= record.version && mayBringBack(record, server);
    if (!returns) return server.isParted ? 'aside' : 'stale';
    logger.warn({ chunk: handle, server: server.id }, 'a lost replica is back');
    state.mutate((m) => {
      record.servers.push(server.id);
      record.lastVersion = Math.max(record.lastVersion, replica.version);
      record.needsRecovery = true;
      saveChunk(m, handle, record, deps.wantedReplicas);
    });
    return 'suspect';
  }
  if (replica.version < record.version) {
    if (server.disks.some(({ problem }) => problem !== '')) return 'older';
    // What it had at the version is gone, and what it has is kept as any stale one.
    state.mutate((m) => {
      takeOutMember(record, server.id);
      record.needsRecovery = true;
      saveChunk(m, handle, record, deps.wantedReplicas);
      makeLossAnError(m, handle);
    });
    deps.onDoubt(handle);
    return 'stale';
  }
  if (replica.version > record.version && !record.needsRecovery) return 'suspect';
  return replica.suspect ? 'suspect' : 'keep';
}

/**
 * A version that this state never gave is of a newer state, which was put back: every member that has it has what was written
 * since, the others may not. Recovery goes from it.
 */
function takeNewer(deps: ReportDeps, server: Server, handle: ChunkHandle, version: number): void {
  const { state, logger } = deps;
  logger.warn(
    { chunk: handle, server: server.id, version },
    'a replica is newer than any version known here: it counts',
  );
  state.mutate((m) => {
    const record = getChunk(m, handle);
    if (record === undefined) return;
    record.suspects = record.servers.filter((id) => id !== server.id);
    record.servers = [...record.suspects, server.id];
    record.gone = [];
    record.leftAtVersion = [];
    record.version = version;
    record.lastVersion = version;
    record.needsRecovery = true;
    saveChunk(m, handle, record, deps.wantedReplicas);
  });
  deps.onDoubt(handle);
}

/**
 * Whether a version above all that this state gave is to take the place of what its members have. Not when they may have what
 * was written after this state was put back, also while they are away, or when that version is from after yet another time that
 * one was.
 */
function isOfNewerState(server: Server, record: ChunkRecord, version: number): boolean {
  if (record.servers.includes(server.id) || isUntouched(server, record, version)) return true;
  return record.servers.every((id) => record.suspects.includes(id));
}

/** Nothing was written to the chunk since this state and the newer one parted, in which it came to `version`. */
function isUntouched(server: Server, record: ChunkRecord, version: number): boolean {
  return server.isParted && record.lastLease < server.partedLease && isSameTimeline(version, record.lastVersion);
}

/**
 * Of what a server keeps aside, what this state knows and can use. A member may have got a copy since: a version that this state
 * never gave does not take its place when something was written here.
 */
export function takeAsideReport(state: State, server: Server, request: ReportAsideRequest): ReportAsideReplyInit {
  if (request.replicas.length > MAX_REPORT_ENTRIES) {
    throw new CairnError('PROTOCOL', `a page of a report has at most ${MAX_REPORT_ENTRIES} replicas`);
  }
  const restore = request.replicas.filter(({ handle, version }) => {
    const record = getChunk(state, chunkHandle(handle));
    if (record === undefined || isGarbage(state, chunkHandle(handle))) return false;
    const isLost = record.servers.length === 0 && mayBringBack(record, server);
    const isKnown = version <= record.lastVersion || isUntouched(server, record, version);
    const isWanted = isLost || (record.servers.includes(server.id) && isKnown);
    return isWanted && version >= record.version;
  });
  return { restore };
}

/** What was to be deleted on this server and is not here any more need not be remembered: no handle is given again. */
function forgetDeletions(
  { state }: ReportDeps,
  server: Server,
  page: { readonly after: number; readonly last: number; readonly named: ReadonlyMap<number, ReplicaState> },
): void {
  const gone: Key[] = [];
  let seen = 0;
  const start = keys.deletion(server.id, chunkHandle(page.after + 1));
  for (const [key] of state.range({ start, end: prefixRange('Z' + packNumber(server.id)).end })) {
    const handle = unpackNumber(key, PREFIX_LENGTH);
    // What is left of a long range is found by the next report.
    if (handle > page.last || ++seen > MAX_REPORT_ENTRIES) break;
    if (!page.named.has(handle)) gone.push(key);
  }
  if (gone.length === 0) return;
  state.mutate((m) => {
    for (const key of gone) m.delete(key);
  });
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
