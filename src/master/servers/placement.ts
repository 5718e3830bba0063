/**
 * Where a new replica goes. Two servers are drawn at random and the better one is taken: nearly as even as the best
 * of all, and servers that look best between two heartbeats are not all chosen at once (Mitzenmacher, "the power of
 * two choices"). Replicas of one chunk go to different hosts as long as there are hosts.
 */
import { CairnError } from '../../core/errors.js';
import type { ServerId } from '../../core/ids.js';
import { CHUNK_SIZE_BYTES } from '../../core/limits.js';
import { pick } from '../../core/random.js';
import type { Random } from '../../core/random.js';
import { hostOf } from './servers.js';
import type { Server } from './servers.js';

export interface PlacementRequest {
  readonly servers: readonly Server[];
  readonly count: number;
  /** Members of the chunk, and servers that failed just now. */
  readonly exclude: ReadonlySet<ServerId>;
  /** Hosts that hold a replica already: taken only when there is no other. */
  readonly hosts?: ReadonlySet<string>;
  readonly random: Random;
}

/** Part of the capacity that one request in flight, or one chunk just placed, counts for. */
const LOAD_WEIGHT = 0.01;

/** For a whole chunk, so that what is placed there can grow. */
export function hasRoom(server: Server): boolean {
  return server.load.freeBytes >= CHUNK_SIZE_BYTES;
}

function score(server: Server): number {
  const { freeBytes, totalBytes, activeRequests } = server.load;
  return freeBytes / Math.max(1, totalBytes) - LOAD_WEIGHT * (activeRequests + server.placedSinceHeartbeat);
}

function better(random: Random, candidates: readonly Server[]): Server {
  const first = pick(random, candidates);
  const second = pick(random, candidates);
  return score(second) > score(first) ? second : first;
}

/** Up to `count` servers that are up and have room, fewer when there are no more. */
export function chooseServers(request: PlacementRequest): Server[] {
  const { random } = request;
  const chosen: Server[] = [];
  const hosts = new Set(request.hosts ?? []);
  const fit = request.servers.filter((s) => s.peer !== null && hasRoom(s) && !request.exclude.has(s.id));
  while (chosen.length < request.count) {
    const left = fit.filter((server) => !chosen.includes(server));
    if (left.length === 0) break;
    const apart = left.filter((server) => !hosts.has(hostOf(server)));
    const server = better(random, apart.length > 0 ? apart : left);
    server.placedSinceHeartbeat++;
    hosts.add(hostOf(server));
    chosen.push(server);
  }
  return chosen;
}

/** The error for a chunk that could be placed on `found` servers only. */
export function placementError(servers: readonly Server[], found: number, needed: number): CairnError {
  const up = servers.filter((server) => server.peer !== null);
  const full = up.filter((server) => !hasRoom(server)).length;
  if (up.length >= needed && full > 0 && up.length - full < needed) {
    return new CairnError('ENOSPC', `${full} of ${up.length} chunkservers are full: add one, or delete files`);
  }
  return new CairnError(
    'UNAVAILABLE',
    `a chunk needs ${needed} chunkservers, ${found} can take it (${up.length} up, ${full} of them full)`,
  );
}
