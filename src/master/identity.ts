/** Which cluster a store belongs to. */
import type { Clock } from '../core/clock.js';
import type { Random } from '../core/random.js';
import { keys } from './state/keys.js';
import { ensureRoot } from './namespace/namespace.js';
import type { State } from './state/state.js';

const ROOT_MODE = 0o755;

/** The cluster's id. A new store becomes a new cluster, with an empty root directory owned by uid 0; durable. */
export async function openIdentity(
  state: State,
  deps: { readonly clock: Clock; readonly random: Random },
): Promise<string> {
  const known = state.get(keys.meta('cluster-id'));
  if (known !== undefined) {
    return Buffer.from(known).toString('utf8');
  }
  const clusterId = Buffer.from(deps.random.bytes(16)).toString('hex');
  state.mutate((m) => {
    m.put(keys.meta('cluster-id'), Buffer.from(clusterId, 'utf8'));
    ensureRoot(m, { now: deps.clock.now() }, { mode: ROOT_MODE, uid: 0, gid: 0 });
  });
  await state.durable();
  return clusterId;
}
