/**
 * Lazy deletion (GFS section 4.4): chunks of removed and truncated files, and the rest of truncates too large for one record. Each tick does a bounded part; none looks at living files.
 */
import { asCairnError } from '../../core/errors.js';
import type { Clock } from '../../core/clock.js';
import { chunkHandle } from '../../core/ids.js';
import type { ChunkHandle, InodeId, ServerId } from '../../core/ids.js';
import { MAX_CHUNKS_PER_PAGE, MAX_GARBAGE_PASS_INTERVAL_MS } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import type { ReplicaVersion } from '../../protocol/generated/messages.js';
import { continueCuts, inodesWithCuts } from '../tables/chunk-map.js';
import { forgetChunk, getChunk } from '../tables/chunk-records.js';
import type { CutProgress } from '../tables/chunk-map.js';
import { keys, packed, prefixRange, unpacked, unpackNumber } from '../state/keys.js';
import type { ServerRegistry } from '../servers/servers.js';
import type { Recalls } from '../sessions/recalls.js';
import type { State } from '../state/state.js';

export class GarbageCollector {
  private readonly cuts = new Map<InodeId, CutProgress>();
  /** Garbage at or below it was looked at in this round. */
  private cursor = 0;

  constructor(
    private readonly deps: {
      readonly state: State;
      readonly clock: Clock;
      readonly logger: Logger;
      readonly servers: ServerRegistry;
      readonly recalls: Pick<Recalls, 'mutate'>;
      readonly graceMs: number;
    },
  ) {}

  /** When the garbage is looked through again: each pass reads all that waits for its time. */
  private nextPassMs = 0;

  /** Returns true when more is to be done at once. */
  async tick(): Promise<boolean> {
    const more = await this.cutStep();
    return (await this.collect()) || more;
  }

  private async cutStep(): Promise<boolean> {
    const [inode] = inodesWithCuts(this.deps.state, 1);
    if (inode === undefined) return false;
    // Fewer chunks are fewer blocks that stat(2) shows.
    const progress = await this.deps.recalls.mutate((m) => continueCuts(m, inode, this.cuts.get(inode)));
    if (progress === undefined) this.cuts.delete(inode);
    else this.cuts.set(inode, progress);
    return true;
  }

  /** One page of garbage: stamps what is new, deletes the replicas of what is old enough, and forgets it. */
  private async collect(): Promise<boolean> {
    const { state, clock, servers, graceMs, logger } = this.deps;
    if (this.cursor === 0) {
      const nowMs = clock.monotonicMs();
      if (nowMs < this.nextPassMs) return false;
      this.nextPassMs = nowMs + Math.min(MAX_GARBAGE_PASS_INTERVAL_MS, graceMs / 10);
    }
    const nowSeconds = clock.now().seconds;
    const fresh: ChunkHandle[] = [];
    const ripe: ChunkHandle[] = [];
    let seen = 0;
    const { end } = prefixRange('G');
    for (const [key, value] of state.range({ start: keys.garbage(chunkHandle(this.cursor + 1)), end })) {
      if (seen === MAX_CHUNKS_PER_PAGE) break;
      seen++;
      const handle = chunkHandle(unpackNumber(key, 1));
      this.cursor = handle;
      const sinceSeconds = value.length === 0 ? undefined : nowSeconds - unpacked(value);
      // A clock that was put back would keep what was stamped before until it comes there again.
      if (graceMs > 0 && (sinceSeconds === undefined || sinceSeconds < 0)) fresh.push(handle);
      else if ((sinceSeconds ?? 0) >= graceMs / 1000) ripe.push(handle);
    }
    const more = seen === MAX_CHUNKS_PER_PAGE;
    if (!more) this.cursor = 0;
    if (fresh.length > 0) {
      state.mutate((m) => {
        for (const handle of fresh) m.put(keys.garbage(handle), packed(nowSeconds));
      });
    }
    if (ripe.length === 0) return more;

    const byServer = new Map<ServerId, ReplicaVersion[]>();
    const versions = new Map<ChunkHandle, number[]>();
    for (const handle of ripe) {
      const record = getChunk(state, handle);
      versions.set(handle, record?.servers ?? []);
      for (const id of (record?.servers ?? []) as ServerId[]) {
        const chunks = byServer.get(id) ?? [];
        chunks.push({ handle, version: record?.lastVersion ?? 0 });
        byServer.set(id, chunks);
      }
    }
    // A server that is not there reports its replicas when it comes back, and is told then (reports.ts).
    const away = new Map([...byServer].filter(([id]) => !servers.isUp(id)));
    const failed = new Set<ServerId>();
    await Promise.all(
      [...byServer].map(async ([id, chunks]) => {
        try {
          if (servers.isUp(id)) await servers.calls.deleteChunks(id, chunks);
        } catch (error) {
          logger.info({ server: id, error: asCairnError(error).message }, 'chunkserver did not delete garbage yet');
          if (servers.isUp(id)) failed.add(id);
          else away.set(id, chunks);
        }
      }),
    );
    state.mutate((m) => {
      for (const [server, chunks] of away) {
        if (servers.get(server) === undefined) continue;
        for (const { handle, version } of chunks) m.put(keys.deletion(server, chunkHandle(handle)), packed(version));
      }
      for (const handle of ripe) {
        if (!(versions.get(handle) ?? []).some((id) => failed.has(id as ServerId))) forgetChunk(m, handle);
      }
    });
    return more;
  }
}
