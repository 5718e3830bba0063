/**
 * After a start with another number of wanted replicas than before, all chunks are looked at again, a slice at a time, beside
 * everything else: those with too few members, or too many, enter the index 'W', from which repair works. How far it came is
 * durable, so that the next start goes on there.
 */
import { chunkHandle } from '../../core/ids.js';
import { RECOUNT_SLICE } from '../../core/limits.js';
import type { Logger } from '../../core/logging/logger.js';
import { getChunk, isGarbage, saveChunk } from '../tables/chunk-records.js';
import { readCounter } from '../state/counters.js';
import { keys, packed, prefixRange, unpackNumber } from '../state/keys.js';
import type { State, StateReader } from '../state/state.js';

/** No number of replicas. */
const UNKNOWN = 0;

/** The handle behind which chunks are still to be looked at; undefined when all were. */
export function recountedUpTo(reader: Pick<StateReader, 'get'>): number | undefined {
  return reader.get(keys.meta('recounted')) === undefined ? undefined : readCounter(reader, 'recounted', 0);
}

export class Recount {
  constructor(
    private readonly deps: { readonly state: State; readonly logger: Logger; readonly wantedReplicas: number },
  ) {
    const { state, logger, wantedReplicas } = deps;
    const before = readCounter(state, 'wanted-replicas', UNKNOWN);
    if (before === wantedReplicas) return;
    state.mutate((m) => {
      m.put(keys.meta('wanted-replicas'), packed(wantedReplicas));
      m.put(keys.meta('recounted'), packed(0));
    });
    if (before === UNKNOWN) return;
    logger.info({ before, wantedReplicas }, 'another number of replicas is wanted: all chunks are looked at again');
  }

  /** Looks at a slice. True when there is more. */
  tick(): boolean {
    const { state, wantedReplicas, logger } = this.deps;
    const from = recountedUpTo(state);
    if (from === undefined) return false;
    const handles: number[] = [];
    const { end } = prefixRange('K');
    for (const [key] of state.range({ start: keys.chunk(chunkHandle(from + 1)), end })) {
      handles.push(unpackNumber(key, 1));
      if (handles.length === RECOUNT_SLICE) break;
    }
    const last = handles.at(-1);
    state.mutate((m) => {
      for (const handle of handles.map(chunkHandle)) {
        const record = getChunk(m, handle);
        if (record !== undefined && !isGarbage(m, handle)) saveChunk(m, handle, record, wantedReplicas);
      }
      if (last === undefined || handles.length < RECOUNT_SLICE) m.delete(keys.meta('recounted'));
      else m.put(keys.meta('recounted'), packed(last));
    });
    if (handles.length === RECOUNT_SLICE) return true;
    logger.info({ wantedReplicas }, 'all chunks were looked at: those with too few or too many replicas are seen to');
    return false;
  }
}
