/** `cairn server`: the chunkservers of a cluster, and how to be rid of one that will not come back. */
import { sleep } from '../../core/clock.js';
import { CairnError } from '../../core/errors.js';
import { clientCluster, CLIENT_OPTIONS, clusterWords } from '../cluster-address.js';
import { note, print, UsageError } from '../command.js';
import type { Command, Options } from '../command.js';
import { clock, withCluster } from '../compose.js';
import { cairnCommand } from '../machine/program-name.js';
import { serverTable } from './status.js';

const POLL_MS = 300;
/** Without an answer that anything was done for so long, the command gives up; the master goes on. */
const STUCK_MS = 60_000;

export const serverCommand: Command = {
  name: 'server',
  summary: 'list chunkservers, or remove one that is gone for good',
  arguments: [
    { syntax: '<action>', description: 'list or remove' },
    { syntax: '[id]', description: 'of the chunkserver to remove, as in the list' },
  ],
  options: [
    { flags: '--force', description: 'remove it although chunks have their only replica there: they are lost' },
    ...CLIENT_OPTIONS,
  ],
  examples: ['cairn server list', 'cairn server remove 3'],
  async run([action, id, ...more], options) {
    if (more.length > 0) throw new UsageError(`'${more.join(' ')}' is too much`);
    if (action === 'list' && id === undefined) return list(options);
    if (action === 'remove' && id !== undefined && /^[1-9]\d{0,14}$/.test(id)) return remove(Number(id), options);
    throw new UsageError("it must be 'list', or 'remove' and the number of a chunkserver");
  },
};

async function list(options: Options): Promise<number> {
  const cluster = await clientCluster(options);
  print(serverTable(await withCluster(cluster, (fileSystem) => fileSystem.status())));
  return 0;
}

async function remove(id: number, options: Options): Promise<number> {
  const cluster = await clientCluster(options);
  const force = options.flag('force');
  return withCluster(cluster, async (fileSystem) => {
    let left = Infinity;
    let untilMs = clock.monotonicMs() + STUCK_MS;
    for (let asked = false; ; asked = true) {
      // It is told once; afterwards only how far it is.
      const reply = await fileSystem.removeServer(id, force && !asked);
      if (reply.removed) {
        if (reply.lastReplicas > 0) note(`${reply.lastReplicas} chunks had their only replica there and are lost`);
        print(`chunkserver ${id} is removed`);
        return 0;
      }
      if (reply.refused) {
        const again = cairnCommand('server', 'remove', String(id), '--force', ...clusterWords(options));
        throw new CairnError(
          'EBUSY',
          `${reply.lastReplicas} chunks have their only replica on chunkserver ${id} and would be lost: bring it back, or ` +
            `give them up with ${again}`,
        );
      }
      if (reply.chunksLeft < left) untilMs = clock.monotonicMs() + STUCK_MS;
      left = Math.min(left, reply.chunksLeft);
      if (clock.monotonicMs() > untilMs) {
        throw new CairnError(
          'ETIMEDOUT',
          `${left} chunks still name chunkserver ${id}: the master goes on by itself when their other replicas are back`,
        );
      }
      await sleep(clock, POLL_MS);
    }
  });
}
