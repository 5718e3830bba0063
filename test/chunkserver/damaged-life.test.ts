/**
 * Random life of one chunk on two or three chunkservers whose disks rot, fill up and lose power: what rots is never read, what
 * was acknowledged is there, and a block that can be read at one member, or was only cut short in a write, can be read at all.
 */
import t, { type Test } from 'tap';
import { asCairnError, errorNumber, hasCode } from '../../src/core/errors.js';
import { BLOCK_SIZE_BYTES } from '../../src/core/limits.js';
import { pick, SeededRandom } from '../../src/core/random.js';
import { DATA_OFFSET } from '../../src/chunkserver/chunk/chunk-format.js';
import { connectPeer } from '../../src/protocol/endpoint.js';
import { CHUNKSERVER_METHODS } from '../../src/protocol/methods.js';
import { testSeed } from '../support/seed.js';
import { ChunkserverCluster, type Lease } from './chunkserver-cluster.js';
import { BLOCKS, Expected, MAX_BYTES, ROTTEN } from './expected-chunk.js';

const EIO = errorNumber('EIO');
const blocks = [...Array(BLOCKS).keys()];

function blocksOf(byServer: Map<number, Set<number>>, id: number): Set<number> {
  const found = byServer.get(id) ?? new Set<number>();
  byServer.set(id, found);
  return found;
}

class Life {
  private readonly random: SeededRandom;
  private readonly expected = new Expected();
  private readonly all: number[];
  private version = 1;
  private top = 1;
  private members: number[];
  private readonly suspects = new Set<number>();
  /** By server: blocks that rotted there, and were not mended. */
  private readonly rotted = new Map<number, Set<number>>();
  /** By server: blocks that rotted there, and were written anew, but not synced: a power loss brings the rot back. */
  private readonly writtenOver = new Map<number, Set<number>>();
  /** Since the last settled state: may have been hurt by a power loss. */
  private readonly poweredOff = new Set<number>();
  readonly steps: string[] = [];
  lostBlocks = 0;

  private constructor(
    seed: number,
    private readonly cluster: ChunkserverCluster,
    private lease: Lease,
    replicas: number,
  ) {
    this.random = new SeededRandom(seed);
    this.all = [1, 2, 3].slice(0, replicas);
    this.members = this.all;
  }

  static async begin(seed: number): Promise<Life> {
    const cluster = await ChunkserverCluster.ofThree(seed);
    cluster.diskTurns = seed % 2 === 0 ? 6 : 0;
    const replicas = 2 + (seed % 2);
    const lease = await cluster.grant(1, 1, [1, 2, 3].slice(0, replicas), { create: true });
    await cluster.sync(lease);
    return new Life(seed, cluster, lease, replicas);
  }

  private note(step: string): void {
    this.steps.push(step);
  }

  private rottedAt(id: number): Set<number> {
    return blocksOf(this.rotted, id);
  }

  private writtenOverAt(id: number): Set<number> {
    return blocksOf(this.writtenOver, id);
  }

  private async change(offset: number, bytes: Buffer, make: () => Promise<unknown>): Promise<boolean> {
    const change = this.expected.begin(offset, bytes);
    try {
      await make();
      change.acknowledged = true;
      return true;
    } catch (error) {
      this.note(`  failed: ${asCairnError(error).code}`);
      return false;
    }
  }

  private place(): number {
    const at = this.random.below(MAX_BYTES);
    return this.random.below(2) === 0 ? at : Math.round(at / BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES;
  }

  async write(): Promise<boolean> {
    const places = [this.place(), this.place()];
    const from = Math.min(...places, MAX_BYTES - 1);
    const to = Math.max(...places, from + 1);
    const bytes = this.random.bytes(to - from);
    for (let i = 0; i < bytes.length; i++) bytes[i] = (bytes[i] ?? 0) & ~ROTTEN;
    this.note(`write ${from} to ${to}`);
    const isDone = await this.change(from, bytes, () => this.cluster.write(this.lease, from, bytes));
    if (isDone) {
      for (const block of blocks) {
        if (from > block * BLOCK_SIZE_BYTES || to < (block + 1) * BLOCK_SIZE_BYTES) continue;
        this.expected.lost.delete(block);
        this.expected.unknown.delete(block);
        for (const id of this.members) if (this.rottedAt(id).delete(block)) this.writtenOverAt(id).add(block);
      }
    }
    return isDone;
  }

  private async truncate(): Promise<boolean> {
    const length = this.place();
    this.note(`truncate to ${length}`);
    const request = { ...this.lease, length };
    return this.change(length, Buffer.alloc(MAX_BYTES - length), () =>
      this.cluster.masterPeer(this.lease.primary).call(CHUNKSERVER_METHODS.truncateChunk, request),
    );
  }

  private async sync(): Promise<boolean> {
    this.note('sync');
    try {
      await this.cluster.sync(this.lease);
      this.expected.synced();
      this.writtenOver.clear();
      return true;
    } catch {
      return false;
    }
  }

  /** Reads a block of one replica, whatever the master thinks of it. */
  private async look(id: number, block: number): Promise<Buffer | undefined> {
    const { cluster } = this;
    const address = cluster.machine(id).address;
    const peer = await connectPeer(cluster.endpoint('chunkserver'), address, { role: 'chunkserver' });
    try {
      const offset = block * BLOCK_SIZE_BYTES;
      const request = { handle: 1, version: this.version, offset, length: BLOCK_SIZE_BYTES };
      const { payload } = await peer.call(CHUNKSERVER_METHODS.readChunk, request);
      return Buffer.concat([payload], BLOCK_SIZE_BYTES);
    } catch (error) {
      if (hasCode(error, 'CORRUPT', 'UNAVAILABLE')) return undefined;
      throw error;
    } finally {
      peer.close('done');
    }
  }

  /** Rot that is noticed, of what is known to be whole. */
  private async rot(): Promise<boolean> {
    if (!(await this.sync())) return false;
    const id = pick(this.random, this.members);
    const machine = this.cluster.machine(id);
    const content = machine.disk.content(this.cluster.chunkPath(machine, 1));
    const at = this.random.below(MAX_BYTES);
    const block = Math.floor(at / BLOCK_SIZE_BYTES);
    if (content.length <= DATA_OFFSET + at || (await this.look(id, block)) === undefined) return true;
    this.note(`rot at ${at} of ${id}`);
    this.rottedAt(id).add(block);
    content.writeUInt8((content[DATA_OFFSET + at] ?? 0) | ROTTEN, DATA_OFFSET + at);
    await this.look(id, block);
    return true;
  }

  /** Now and then the look at its replica fails. */
  private async start(id: number): Promise<void> {
    const machine = this.cluster.machine(id);
    if (this.random.below(4) === 0) {
      machine.disk.failOn('chunk.peek');
      this.note(`a bad look at the start of ${id}`);
    }
    // What the killed process said of its calls that failed with it.
    this.forgetReports(id);
    await this.cluster.startServer(machine);
    // It goes on to look at its replicas.
    for (let turn = 0; turn < 200 && machine.disk.willFailOn('chunk.peek'); turn++) await new Promise(setImmediate);
    await this.hear(id);
    machine.disk.clearFaults();
  }

  /** As the master does: who says that its replica is in doubt is a suspect. What a server refuses for that it must have told. */
  private async hear(id: number): Promise<boolean> {
    const { cluster } = this;
    const machine = cluster.machine(id);
    const isToldOf = (): boolean => {
      const { suspect = false } = machine.reported.findLast(({ handle }) => handle === 1) ?? {};
      return suspect || cluster.replicaReports.some((report) => report.serverId === id && report.errorCode === EIO);
    };
    const isRefusedAt = (version: number): Promise<boolean> =>
      cluster.read(id, 1, version, 0, 1).then(
        () => false,
        (error: unknown) => hasCode(error, 'STALE_VERSION') && /needs recovery/.test(asCairnError(error).message),
      );
    const isRefused = async (): Promise<boolean> => {
      // A recovery that failed may have raised it.
      for (let version = this.version; version <= this.top; version++) if (await isRefusedAt(version)) return true;
      return false;
    };
    for (let turn = 0; !isToldOf(); turn++) {
      if (!(await isRefused())) return false;
      if (turn === 100) throw new Error(`server ${id} takes its replica for suspect, and has not said so`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    this.suspects.add(id);
    this.note(`  ${id} is a suspect`);
    machine.reported = [];
    this.forgetReports(id);
    return true;
  }

  private forgetReports(id: number): void {
    const others = this.cluster.replicaReports.splice(0).filter(({ serverId }) => serverId !== id);
    this.cluster.replicaReports.push(...others);
  }

  /** A look at replicas fails while they are written to. */
  private async writeBesideBadLooks(ids: readonly number[]): Promise<boolean> {
    this.note(`a bad look at ${ids.join()}`);
    let isOver = false;
    const isDone = this.write().finally(() => (isOver = true));
    const look = async (id: number): Promise<void> => {
      const { disk } = this.cluster.machine(id);
      const before = disk.changes;
      while (disk.changes === before && !isOver) await new Promise(setImmediate);
      disk.failOn('chunk.peek');
      const request = { handle: 1, version: this.version };
      await this.cluster
        .masterPeer(id)
        .call(CHUNKSERVER_METHODS.checkReplica, request)
        .catch(() => undefined);
      // Whoever reads has the file opened anew.
      await Promise.all(blocks.map((block) => this.look(id, block)));
      disk.clearFaults();
    };
    await Promise.all(ids.map(look));
    await isDone;
    if (this.random.below(2) === 0) await this.sync();
    for (const id of ids) await this.hear(id);
    return false;
  }

  private async kill(id: number, how: 'kill' | 'powerLoss'): Promise<void> {
    this.note(`${how} ${id}`);
    await this.cluster.kill(this.cluster.machine(id), how);
    if (how === 'kill') return;
    this.suspects.add(id);
    this.poweredOff.add(id);
    for (const block of this.writtenOverAt(id)) this.rottedAt(id).add(block);
    if (!this.members.every((each) => this.suspects.has(each))) return;
    this.expected.powerLoss();
    for (const block of this.members.flatMap((each) => [...this.rottedAt(each)])) this.expected.lose(block);
  }

  private async startAll(): Promise<void> {
    for (const id of this.all) {
      if (this.cluster.machine(id).server !== undefined) continue;
      await this.start(id);
      if (!this.members.includes(id)) continue;
      // What rotted is known again, before anything is written over it.
      for (const block of this.rottedAt(id)) await this.look(id, block).catch(() => undefined);
    }
  }

  private plant(label: string, id: number): void {
    const { disk } = this.cluster.machine(id);
    const after = this.random.below(3);
    this.note(`plant ${label} at ${id}`);
    if (label === 'kill') disk.killAtChange(disk.changes + this.random.below(6), this.random.below(90_000));
    else if (label === 'chunk.read') disk.failOn(label, after, 'UNAVAILABLE');
    else disk.failOn(label, after, 'ENOSPC', this.random.below(3) * this.random.below(BLOCK_SIZE_BYTES));
  }

  private async tryToRecover(): Promise<void> {
    const live = this.members.filter((id) => this.cluster.machine(id).server !== undefined);
    const sound = live.filter((id) => !this.suspects.has(id));
    if (live.length === 0) return;
    const leader = pick(this.random, sound.length > 0 ? sound : live);
    const others = live.filter((id) => id !== leader);
    // As the master does: no suspect leads while a sound one may come back.
    if (sound.length === 0 && this.members.some((id) => !this.suspects.has(id))) return;
    this.top++;
    this.note(`recover ${[leader, ...others].join()} to ${this.top}`);
    try {
      const { reply } = await this.cluster.masterPeer(leader).call(CHUNKSERVER_METHODS.recoverChunk, {
        ...{ handle: 1, fromVersion: this.version, toVersion: this.top, leaseId: 1000 + this.top },
        ...{ members: this.cluster.members([leader, ...others]), validBytes: MAX_BYTES * 2 },
        trustSuspect: this.suspects.has(leader),
      });
      this.members = [...reply.succeeded].sort();
      this.version = this.top;
      for (const id of this.members) this.suspects.delete(id);
    } catch (error) {
      this.note(`  failed: ${asCairnError(error).message}`);
    }
  }

  /** Recovers, under trouble and without, until all are members, and sees that they are as they may be. */
  async settle(): Promise<string | undefined> {
    if (this.random.below(2) === 0) await this.startAll();
    for (let trouble = this.random.below(3); trouble > 0; trouble--) {
      const label = pick(this.random, ['kill', 'chunk.read', 'chunk.write', 'chunk.table']);
      const id = pick(this.random, this.members);
      if (this.cluster.machine(id).server !== undefined) this.plant(label, id);
      await this.tryToRecover();
      for (const each of this.all) {
        this.cluster.machine(each).disk.clearFaults();
        if (each === id && label === 'kill') await this.kill(each, 'kill');
      }
      await this.startAll();
    }
    await this.startAll();
    let found: (Buffer | undefined)[][] = [];
    for (let round = 0; round < 4; round++) {
      await this.tryToRecover();
      found = [];
      for (const id of this.members) found.push(await Promise.all(blocks.map((block) => this.look(id, block))));
      if (round > 0 && found.flat().every((bytes) => bytes !== undefined)) break;
    }
    const wrong = this.faultOf(found);
    if (wrong !== undefined) return wrong;
    this.expected.settled(found[0] ?? []);
    this.poweredOff.clear();
    this.writtenOver.clear();
    for (const id of this.members) this.rotted.set(id, new Set(blocks.filter((b) => found[0]?.[b] === undefined)));
    for (const id of this.all) {
      if (this.members.includes(id)) continue;
      const [source = null] = this.cluster.members([pick(this.random, this.members)]);
      const request = { handle: 1, version: this.version, source };
      await this.cluster.masterPeer(id).call(CHUNKSERVER_METHODS.copyChunk, request);
      this.note(`copy to ${id}`);
      this.members.push(id);
      this.suspects.delete(id);
      this.rotted.set(id, new Set(this.rotted.get(this.members[0] ?? 0)));
      for (const block of this.rottedAt(id)) await this.look(id, block);
    }
    const primary = pick(this.random, this.members);
    const others = this.members.filter((id) => id !== primary);
    this.lease = await this.cluster.grant(1, this.version, [primary, ...others], { leaseId: 1001 + this.top });
    this.top++;
    return undefined;
  }

  private faultOf(found: readonly (readonly (Buffer | undefined)[])[]): string | undefined {
    for (const block of blocks) {
      const copies = found.map((copy) => copy[block]);
      const sound = copies.filter((copy) => copy !== undefined);
      for (const copy of sound) {
        const wrong = this.expected.fault(block, copy);
        if (wrong !== undefined) return wrong;
        if (!copy.equals(sound[0] ?? copy)) return `block ${block} is not the same everywhere`;
      }
      if (sound.length === copies.length || this.expected.lost.has(block)) continue;
      if (sound.length > 0) return `block ${block} can be read at ${sound.length} of ${copies.length}`;
      this.lostBlocks++;
      const hasRotted = this.members.some((id) => this.rottedAt(id).has(block));
      const isExcused = this.members.every((id) => this.rottedAt(id).has(block) || this.poweredOff.has(id));
      if (!hasRotted || !isExcused) return `block ${block} is lost by nothing`;
    }
    return undefined;
  }

  async step(): Promise<string | undefined> {
    const id = pick(this.random, this.members);
    let sound = true;
    switch (this.random.below(12)) {
      case 0:
      case 1: {
        const ids = this.random.below(3) === 0 ? this.members : [id];
        for (const each of ids) this.plant('kill', each);
        await this.write();
        for (const each of ids) await this.kill(each, 'kill');
        sound = false;
        break;
      }
      case 2: {
        const ids = this.random.below(3) === 0 ? this.members : [id];
        await this.write();
        for (const each of ids) await this.kill(each, 'powerLoss');
        sound = false;
        break;
      }
      case 3:
      case 4: {
        const ids = this.random.below(2) === 0 ? this.members : [id];
        for (const each of ids) this.plant(pick(this.random, ['chunk.write', 'chunk.table']), each);
        sound = await (this.random.below(4) === 0 ? this.truncate() : this.write());
        for (const each of ids) this.cluster.machine(each).disk.clearFaults();
        break;
      }
      case 5:
      case 6:
        sound = await this.rot();
        break;
      case 10:
        sound = await this.writeBesideBadLooks(this.random.below(2) === 0 ? this.members : [id]);
        break;
      case 7:
        sound = await this.truncate();
        break;
      default:
        sound = await this.write();
        if (sound && this.random.below(3) === 0) sound = await this.sync();
    }
    return !sound || this.random.below(6) === 0 ? this.settle() : undefined;
  }

  async end(): Promise<void> {
    await this.cluster.stop();
  }
}

async function live(t: Test, firstSeed: number, rounds: number): Promise<void> {
  let lost = 0;
  for (let seed = firstSeed; seed < firstSeed + rounds; seed++) {
    const life = await Life.begin(seed);
    let wrong: string | undefined;
    try {
      for (let i = 0; i < 25 && wrong === undefined; i++) wrong = await life.step();
      wrong ??= await life.settle();
    } catch (error) {
      wrong = asCairnError(error).stack ?? '';
    }
    lost += life.lostBlocks;
    await life.end();
    if (wrong !== undefined) {
      t.fail(`CAIRN_SEED=${seed}: ${wrong}`, { steps: life.steps });
      return;
    }
  }
  t.comment(`${lost} blocks were lost everywhere`);
}

t.test('P1, P3, P4: rot, full disks, kills and power losses beside recoveries', async (t) => {
  const seed = Number(process.env['CAIRN_FIRST_SEED'] ?? testSeed(t));
  await live(t, seed, Number(process.env['CAIRN_SEEDS'] ?? 15));
});

t.test('a power loss everywhere takes back a write over rot that no sync covers', (t) => live(t, 1_620_756_666, 1));
