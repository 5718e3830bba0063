/**
 * Random life of one chunk on three chunkservers: concurrent writes, cuts, kills in the middle of changes, power
 * losses, restarts, damage, recoveries in any order, copies; against a model of what was acknowledged.
 */
import t from 'tap';
import { SeededRandom, pick } from '../../src/core/random.js';
import { CHUNKSERVER_METHODS } from '../../src/protocol/methods.js';
import { testSeed } from '../support/seed.js';
import { ChunkserverCluster, type Lease } from './chunkserver-cluster.js';

const MAX_BYTES = 400_000;

class Acknowledged {
  readonly bytes = Buffer.alloc(MAX_BYTES);
  /** 1: a write that failed may or may not have changed it. */
  readonly unsure = new Uint8Array(MAX_BYTES);
}

async function life(t: { pass(message: string): void }, seed: number): Promise<void> {
  const random = new SeededRandom(seed);
  const cluster = await ChunkserverCluster.ofThree(seed);
  const model = new Acknowledged();
  let version = 1;
  let top = 1;
  let members = [1, 2, 3];
  let lease: Lease = await cluster.grant(1, version, members, { create: true });
  const suspects = new Set<number>();
  const alive = (id: number): boolean => cluster.machine(id).server !== undefined;

  async function write(writes: readonly [number, Buffer][]): Promise<void> {
    for (const [offset, bytes] of writes) model.unsure.fill(1, offset, offset + bytes.length);
    const [only] = writes;
    if (writes.length === 1 && only !== undefined) await cluster.write(lease, ...only);
    else await cluster.writeBatch(lease, writes);
  }

  async function burst(): Promise<boolean> {
    let at = 0;
    const sent: [number, Buffer][] = [];
    for (let i = 1 + random.below(4); i > 0 && at < MAX_BYTES - 1; i--) {
      const offset = at + random.below(Math.min(90_000, MAX_BYTES - at));
      const bytes = random.bytes(Math.min(1 + random.below(random.below(2) === 0 ? 300 : 90_000), MAX_BYTES - offset));
      at = offset + bytes.length;
      sent.push([offset, bytes]);
    }
    const isBatch = random.below(2) === 0;
    const messages = isBatch && sent.length > 0 ? [sent] : sent.map((each) => [each]);
    const results = await Promise.allSettled(messages.map(write));
    results.forEach((result, i) => {
      if (result.status === 'rejected') return;
      for (const [offset, bytes] of messages[i] ?? []) {
        bytes.copy(model.bytes, offset);
        model.unsure.fill(0, offset, offset + bytes.length);
      }
    });
    return results.every((result) => result.status === 'fulfilled');
  }

  async function restartAll(): Promise<void> {
    for (const machine of cluster.machines) if (machine.server === undefined) await cluster.startServer(machine);
  }

  async function recoverAndCheck(): Promise<void> {
    let live = members.filter(alive);
    if (!live.some((id) => !suspects.has(id))) {
      await restartAll();
      live = members;
    }
    const first = pick(
      random,
      live.filter((id) => !suspects.has(id)),
    );
    const order = [first, ...live.filter((id) => id !== first)];
    members = await cluster.recover(1, version, ++top, order);
    version = top;
    for (const id of members) suspects.delete(id);
    const copies = await Promise.all(members.map((id) => cluster.read(id, 1, version)));
    const [copy = Buffer.alloc(0)] = copies;
    if (!copies.every((each) => each.equals(copy))) throw new Error('P4: replicas differ after recovery');
    for (let at = 0; at < MAX_BYTES; at++) {
      if (model.unsure[at] === 0 && (copy[at] ?? 0) !== model.bytes[at])
        throw new Error(`byte ${at} is not as written`);
    }
    copy.copy(model.bytes);
    model.bytes.fill(0, copy.length);
    model.unsure.fill(0);
    await restartAll();
    for (const machine of cluster.machines) {
      if (members.includes(machine.serverId)) continue;
      const { serverId } = machine;
      const stale = await cluster.read(serverId, 1, version).catch(() => undefined);
      if (stale !== undefined) throw new Error('P9: a stale replica is served');
      const source = cluster.members([pick(random, members)])[0] ?? null;
      await cluster.masterPeer(serverId).call(CHUNKSERVER_METHODS.copyChunk, { handle: 1, version, source });
      members.push(serverId);
      suspects.delete(serverId);
    }
    const primary = pick(random, members);
    lease = await cluster.grant(1, version, [primary, ...members.filter((id) => id !== primary)]);
  }

  for (let step = 0; step < 25; step++) {
    const id = pick(random, members);
    const machine = cluster.machine(id);
    let sound = true;
    switch (random.below(6)) {
      case 0:
        machine.disk.killAtChange(machine.disk.changes + random.below(10), random.below(90_000));
        sound = await burst();
        await cluster.kill(machine);
        sound = false;
        break;
      case 1:
        if (members.some((other) => other !== id && alive(other) && !suspects.has(other))) {
          const under = burst();
          await cluster.kill(machine, 'powerLoss');
          await under;
          suspects.add(id);
          await cluster.startServer(machine);
          sound = false;
        }
        break;
      case 2: {
        machine.disk.failOn(pick(random, ['chunk.write', 'chunk.table']), random.below(3), 'ENOSPC');
        sound = await burst();
        machine.disk.clearFaults();
        break;
      }
      case 3: {
        const length = random.below(MAX_BYTES);
        model.unsure.fill(1, length);
        sound = await cluster
          .masterPeer(lease.primary)
          .call(CHUNKSERVER_METHODS.truncateChunk, { ...lease, length })
          .then(
            () => true,
            () => false,
          );
        if (!sound) break;
        model.bytes.fill(0, length);
        model.unsure.fill(0, length);
        break;
      }
      default:
        sound = await burst();
        if (sound && random.below(3) === 0) await cluster.sync(lease);
    }
    if (!sound || random.below(8) === 0) await recoverAndCheck();
  }
  await recoverAndCheck();
  t.pass(`seed ${seed}: version ${version}`);
  await cluster.stop();
}

t.test('P3, P4, P9: random work, crashes and recoveries', async (t) => {
  const seed = testSeed(t);
  for (let i = 0; i < 15; i++) {
    t.comment(`round with CAIRN_SEED=${seed + i}`);
    await life(t, seed + i);
  }
});
