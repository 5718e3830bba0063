/** Which cluster a store belongs to, and whether this program can read it. */
import { CairnError } from '../core/errors.js';
import type { Clock } from '../core/clock.js';
import type { Random } from '../core/random.js';
import { readCounter } from './counters.js';
import { keys, packed } from './keys.js';
import { ensureRoot } from './namespace.js';
import type { State } from './state.js';

/** Of the keys and records in the store (docs/disk-format.md). */
const FORMAT = 1;
const ROOT_MODE = 0o755;

/** The cluster's id. A new store becomes a new cluster, with an empty root directory owned by uid 0; durable. */
export async function openIdentity(
  state: State,
  deps: { readonly clock: Clock; readonly random: Random },
): Promise<string> {
  const known = state.get(keys.meta('cluster-id'));
  if (known !== undefined) {
    const format = readCounter(state, 'format', 0);
    if (format !== FORMAT) {
      throw new CairnError('EINVAL', `the metadata has format ${format}, this program reads format ${FORMAT}`);
    }
    return Buffer.from(known).toString('utf8');
  }
  const clusterId = Buffer.from(deps.random.bytes(16)).toString('hex');
  state.mutate((m) => {
    m.put(keys.meta('cluster-id'), Buffer.from(clusterId, 'utf8'));
    m.put(keys.meta('format'), packed(FORMAT));
    ensureRoot(m, { now: deps.clock.now() }, { mode: ROOT_MODE, uid: 0, gid: 0 });
  });
  await state.durable();
  return clusterId;
}
