/**
 * Chunkservers that will not come back are taken out of the cluster: by an administrator, or by themselves when nothing names
 * them any more and another serves at their address (its disk was replaced).
 *
 *   check    a walk over the chunks that the server has a replica of, which counts those of which it has the only one
 *   drop     it is taken out of their members, a slice at a time. Durable: the next start of the master goes on.
 *
 * A removed server never becomes a member again by its old id: what it brings along when it comes back is judged as any
 * replica of a server that is no member (reports.ts).
 */
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle, ServerId } from '../../core/ids.js';
import { CairnError } from '../../core/errors.js';
import { MAX_COUNTED_CHUNKS, MAX_FORGOTTEN_DELETIONS, RECOUNT_SLICE } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { ChunkRecord, RemoveServerReplyInit } from '../../protocol/generated/messages.js';
import { getChunk, isGarbage, saveChunk, takeOutMember } from '../tables/chunk-records.js';
import { keys, PREFIX_LENGTH, packNumber, prefixRange, unpackNumber } from '../state/keys.js';
import type { Server, ServerRegistry } from '../servers/servers.js';
import type { Mutation, State } from '../state/state.js';

interface Check {
  after: number;
  lastReplicas: number;
}

export class ServerRemovals {
  /** Walks under way, before anything is changed. */
  private readonly checks = new Map<ServerId, Check>();
  /** What a walk found that was in the way, until it is told. */
  private readonly refused = new Map<ServerId, number>();
  /** Chunks that were given up with a server that is being removed, or was. */
  private readonly given = new Map<ServerId, number>();

  /** How far the walks came that take servers out. */
  private readonly dropped = new Map<ServerId, number>();

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly wantedReplicas: number;
      /** The last member of a chunk was taken out. */
      readonly onLost: (handle: ChunkHandle) => void;
    },
  ) {}

  /** Begins the removal, or says how far it is. Asked again until it says that it is done, or why it is not. */
  ask(id: number, force: boolean): RemoveServerReplyInit {
    const { servers } = this.deps;
    const known = id as ServerId;
    const server = servers.get(known);
    if (server === undefined) {
      const givenUp = this.given.get(known);
      if (givenUp === undefined) throw new CairnError('ENOENT', `the cluster has no chunkserver ${id}: see its list`);
      return { removed: true, lastReplicas: givenUp };
    }
    this.requireGone(server);
    if (server.removal !== 'no') return { chunksLeft: this.countChunks(known) };
    const refused = this.refused.get(known);
    if (refused !== undefined && !force) {
      this.refused.delete(known);
      return { refused: true, lastReplicas: refused };
    }
    if (force) this.begin(server, 'forced');
    else if (!this.checks.has(known)) this.checks.set(known, { after: 0, lastReplicas: 0 });
    return { chunksLeft: this.countChunks(known) };
  }

  private requireGone(server: Server): void {
    const { servers } = this.deps;
    const liveness = servers.liveness(server.id);
    if (liveness === 'dead') return;
    throw new CairnError(
      'EBUSY',
      liveness === 'up'
        ? `chunkserver ${server.id} at ${server.address} is in service: stop it first`
        : `chunkserver ${server.id} at ${server.address} was heard of just now: ask again in some seconds`,
    );
  }

  /** Does a part of what is to be done. True when there is more. */
  tick(): boolean {
    const { servers } = this.deps;
    let more = false;
    for (const server of servers.all()) {
      if (servers.liveness(server.id) !== 'dead') this.checks.delete(server.id);
      else if (server.removal !== 'no') more = this.drop(server) || more;
      else if (this.checks.has(server.id)) more = this.check(server) || more;
      else if (this.isReplaced(server)) this.begin(server, 'asked');
    }
    return more;
  }

  private begin(server: Server, removal: 'asked' | 'forced'): void {
    this.checks.delete(server.id);
    this.refused.delete(server.id);
    this.given.set(server.id, 0);
    this.deps.servers.setRemoval(server, removal);
    this.deps.logger.warn({ server: server.id, address: server.address, removal }, 'chunkserver is being removed');
  }

  /** Nothing names it, and another serves where it did. */
  private isReplaced({ id, address }: Server): boolean {
    const { servers } = this.deps;
    const isTaken = servers.all().some((other) => other.id !== id && other.peer !== null && other.address === address);
    return isTaken && this.slice(id, 0, 1).length === 0;
  }

  private check(server: Server): boolean {
    const check = this.checks.get(server.id);
    if (check === undefined) return false;
    const handles = this.slice(server.id, check.after, RECOUNT_SLICE);
    for (const handle of handles) if (this.isLast(server.id, handle, this.recordOf(handle))) check.lastReplicas++;
    check.after = handles.at(-1) ?? check.after;
    if (handles.length === RECOUNT_SLICE) return true;
    this.checks.delete(server.id);
    if (check.lastReplicas > 0) this.refused.set(server.id, check.lastReplicas);
    else this.begin(server, 'asked');
    return true;
  }

  /** Takes the server out of a slice of its chunks; true until it is forgotten, or only chunks are left that it alone has. */
  private drop(server: Server): boolean {
    const { state, wantedReplicas, onLost } = this.deps;
    const { id } = server;
    const isForced = server.removal === 'forced';
    const handles = this.slice(id, this.dropped.get(id) ?? 0, RECOUNT_SLICE);
    const lost: ChunkHandle[] = [];
    state.mutate((m) => {
      for (const handle of handles) {
        const record = getChunk(m, handle);
        const isLast = !isGarbage(m, handle) && this.isLast(id, handle, record);
        if (record === undefined) m.delete(keys.serverChunk(id, handle));
        else if (isForced || !isLast) {
          if (isLast) lost.push(handle);
          takeOut(m, handle, record, id, wantedReplicas);
        }
      }
    });
    for (const handle of lost) onLost(handle);
    if (lost.length > 0) this.given.set(id, (this.given.get(id) ?? 0) + lost.length);
    const last = handles.at(-1);
    if (last !== undefined && handles.length === RECOUNT_SLICE) {
      this.dropped.set(id, last);
      return true;
    }
    this.dropped.delete(id);
    return this.slice(id, 0, 1).length === 0 && this.forget(server);
  }

  /** True when there is more to forget. */
  private forget({ id, address }: Server): boolean {
    const { state, servers, logger } = this.deps;
    const deletions: string[] = [];
    for (const [key] of state.range(prefixRange('Z' + packNumber(id)))) {
      deletions.push(key);
      if (deletions.length === MAX_FORGOTTEN_DELETIONS) break;
    }
    state.mutate((m) => {
      for (const key of deletions) m.delete(key);
      if (deletions.length < MAX_FORGOTTEN_DELETIONS) m.delete(keys.server(id));
    });
    if (deletions.length === MAX_FORGOTTEN_DELETIONS) return true;
    servers.forget(id);
    logger.warn({ server: id, address, givenUp: this.given.get(id) ?? 0 }, 'chunkserver is removed from the cluster');
    return false;
  }

  /** No other member can give what this one has. One that came back and has yet to report may have lost it. */
  private isLast(id: ServerId, handle: ChunkHandle, record: ChunkRecord | undefined): boolean {
    if (record === undefined || !record.servers.includes(id)) return false;
    const { servers } = this.deps;
    const hasIt = (other: number): boolean => {
      return servers.isUp(other) && (servers.get(other)?.judgedUpTo ?? 0) >= handle && !record.suspects.includes(other);
    };
    return !record.servers.some((other) => other !== id && hasIt(other));
  }

  private recordOf(handle: ChunkHandle): ChunkRecord | undefined {
    return !isGarbage(this.deps.state, handle) ? getChunk(this.deps.state, handle) : undefined;
  }

  private countChunks(id: ServerId): number {
    let count = 0;
    for (const _ of this.deps.state.range(prefixRange('R' + packNumber(id)))) if (++count >= MAX_COUNTED_CHUNKS) break;
    return count;
  }

  private slice(id: ServerId, after: number, limit: number): ChunkHandle[] {
    const handles: ChunkHandle[] = [];
    const { end } = prefixRange('R' + packNumber(id));
    for (const [key] of this.deps.state.range({ start: keys.serverChunk(id, chunkHandle(after + 1)), end })) {
      if (handles.length === limit) break;
      handles.push(chunkHandle(unpackNumber(key, PREFIX_LENGTH)));
    }
    return handles;
  }
}

function takeOut(m: Mutation, handle: ChunkHandle, record: ChunkRecord, id: ServerId, wantedReplicas: number): void {
  takeOutMember(record, id);
  if (!isGarbage(m, handle)) {
    // So that the others go on under a new version, and what it has is known to be old; without a member it is lost.
    record.needsRecovery = true;
    // No power loss took it.
    record.unsynced = false;
  }
  saveChunk(m, handle, record, wantedReplicas);
}
