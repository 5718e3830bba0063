/**
 * Random deaths, returns and partitions of chunkservers and crashes of the master while writers write. At the end every
 * acknowledged word is on every replica that readers are sent to (P9, P10, P11), and the replicas are alike (P4).
 */
import t from 'tap';
import { MASTER_METHODS } from '../../src/protocol/methods.js';
import { SeededRandom, pick } from '../../src/core/random.js';
import type { LeaseChunkReply } from '../../src/protocol/generated/messages.js';
import { testSeed } from '../support/seed.js';
import { MasterCluster } from './support/master-cluster.js';
import type { TestClient } from './support/master-cluster.js';

const FILES = 3;
const STEPS = 60;
const ROUNDS = 15;

class Story {
  private client: TestClient;
  private readonly leases = new Map<number, LeaseChunkReply>();
  readonly acknowledged = new Map<number, string[]>();
  readonly log: string[] = [];
  private words = 0;

  constructor(
    private readonly cluster: MasterCluster,
    private readonly random: SeededRandom,
    client: TestClient,
  ) {
    this.client = client;
  }

  async prepare(): Promise<void> {
    for (let i = 0; i < FILES; i++) {
      const inode = await this.client.create(`file-${i}`, 2);
      // Published far ahead, so that what is acknowledged is not cut as the tail of a dead session.
      await this.client.publish(inode, 10_000);
      this.acknowledged.set(inode, []);
    }
  }

  private async write(): Promise<void> {
    const inode = pick(this.random, [...this.acknowledged.keys()]);
    const word = `w${++this.words}`;
    for (let attempt = 0; attempt < 2; attempt++) {
      try {
        const failed = this.leases.get(inode);
        if (failed === undefined || attempt > 0) {
          this.leases.set(inode, await this.client.lease(inode, 0, failed));
          // A new chunk is part of the file for good with the next fsync (P1), of which every word here is sure.
          await this.cluster.until(this.client.peer.call(MASTER_METHODS.sync, {}));
        }
      } catch (error) {
        this.log.push(`lease ${inode}: ${String(error)}`);
        return;
      }
      const lease = this.leases.get(inode);
      if (lease !== undefined && this.cluster.write(lease, word)) {
        this.acknowledged.get(inode)?.push(word);
        this.log.push(`${word} to ${lease.handle} v${lease.version} l${lease.leaseId}`);
        return;
      }
    }
  }

  async step(): Promise<void> {
    const { cluster, random } = this;
    const server = pick(random, cluster.servers);
    switch (random.below(16)) {
      case 0:
        if (cluster.servers.filter((one) => one.reachable).length < 2) return;
        this.log.push(`kill ${server.id}`);
        return server.kill();
      case 1:
      case 2:
        if (server.peer !== undefined && !server.peer.isClosed) return;
        this.log.push(`back ${server.id}`);
        return cluster.rejoin(server);
      case 3:
        this.log.push(`partition ${server.id}`);
        server.peer?.close('partition');
        return;
      case 4:
        return this.crash(pick(random, ['kill', 'power'] as const));
      case 5:
        server.failNext(
          pick(random, ['recoverChunk', 'grantLease'] as const),
          'TIMEOUT',
          pick(random, ['before', 'after']),
        );
        return;
      case 6:
        await cluster.wait(random.below(12_000));
        await this.keep();
        return;
      case 7:
        return this.tear();
      default:
        return this.write();
    }
  }

  /** A write reaches a part of the members, then one of them or the master dies; nobody acknowledges it. */
  private async tear(): Promise<void> {
    const { cluster, random } = this;
    for (const lease of this.leases.values()) {
      const members = lease.replicas.map(({ serverId }) => cluster.server(serverId));
      const member = pick(random, members);
      const word = `torn${++this.words}`;
      if (!cluster.tear(lease, word, member)) continue;
      this.log.push(`${word} of ${lease.handle} at ${member.id} alone`);
      if (random.below(2) === 0) return this.crash('kill');
      const dies = pick(random, members);
      this.log.push(`kill ${dies.id}, back`);
      dies.kill();
      return cluster.rejoin(dies);
    }
  }

  private async keep(): Promise<void> {
    await this.cluster
      .until(this.client.peer.call(MASTER_METHODS.keepSession, { ackedBelow: 1 }))
      .catch(() => undefined);
  }

  private async crash(how: 'kill' | 'power'): Promise<void> {
    this.log.push(`master ${how}`);
    await this.cluster.restartMaster(how);
    const { sequence, sessionId } = this.client;
    this.client = await this.cluster.client(sessionId);
    this.client.sequence = sequence;
    const opens = [...this.acknowledged.keys()].map((inode) => ({ inode, readers: 0, writers: 1 }));
    await this.cluster.until(this.client.peer.call(MASTER_METHODS.reclaim, { opens, done: true }));
  }

  async check(): Promise<string | undefined> {
    const { cluster } = this;
    for (const server of cluster.servers) if (server.peer?.isClosed !== false) await cluster.rejoin(server);
    for (let i = 0; i < 20; i++) {
      await cluster.wait(5_000);
      await this.keep();
    }
    for (const [inode, expected] of this.acknowledged) {
      if (expected.length === 0) continue;
      const replicas = await cluster.words(this.client, inode);
      if (replicas.length < 2) return `inode ${inode} has ${replicas.length} replicas`;
      for (const words of replicas) {
        if (words.join() !== replicas[0]?.join()) return `P4: ${replicas.map((w) => w.join()).join(' | ')}`;
        const missing = expected.filter((word) => !words.includes(word));
        if (missing.length > 0) return `P9: inode ${inode} lost ${missing.join()}`;
      }
    }
    const status = await this.client.status();
    if (status.underReplicatedChunks + status.unavailableChunks > 0) return 'not repaired';
    return undefined;
  }
}

t.test('P4, P9, P10, P11: random faults', async (t) => {
  const seed = testSeed(t);
  for (let round = 0; round < ROUNDS; round++) {
    const random = new SeededRandom(seed + round);
    const cluster = new MasterCluster({ repairGraceMs: 8_000 }, seed + round);
    await cluster.start(4);
    const story = new Story(cluster, random, await cluster.client());
    await story.prepare();
    for (let i = 0; i < STEPS; i++) await story.step();
    const fault = await story.check();
    if (fault !== undefined) t.fail(`CAIRN_SEED=${seed + round}: ${fault}`, { log: story.log });
    await cluster.stop();
  }
});
