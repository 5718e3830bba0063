/** What an administrator does to a simulated cluster: puts the master's directory back, removes servers. */
import type { RemoveServerReply, StatusReply } from '../../../src/protocol/generated/messages.js';
import type { Story } from './story.js';
import { MASTER } from './world.js';
import type { World } from './world.js';

export type Backup = () => Promise<void>;

/** Takes a copy of the master's directory now; the function returned puts it back, while the master is down. */
export function backUp(world: World): Backup {
  const log = world.disk(MASTER).snapshot('/log');
  const store = world.store.snapshot();
  return async () => {
    world.disk(MASTER).putBack('/log', log);
    await world.store.putBack(store);
  };
}

export async function restore(world: World, backup: Backup): Promise<void> {
  await world.kill(MASTER);
  await backup();
  await world.start(MASTER);
}

export const idAt = (status: StatusReply, name: string): number =>
  status.servers.find(({ address }) => address.startsWith(`${name}:`))?.serverId ?? 0;

/** As the command does: asks until there is a result. */
export async function removeServer(s: Story, id: number, force = false): Promise<RemoveServerReply> {
  for (let asked = false; ; asked = true) {
    const reply = await s.two.removeServer(id, force && !asked);
    if (reply.removed || reply.refused) return reply;
    await s.world.sleep(300);
  }
}
