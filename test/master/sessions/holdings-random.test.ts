/**
 * Several clients that believe what they hold, beside everything that changes a name or an inode: at every change of the master's state,
 * all that each of them believes is so. With clients that answer recalls late or never, that are cut off, and masters that are killed.
 */
import t from 'tap';
import type { Test } from 'tap';
import { seededRandom } from '../../support/seed.js';
import { asCairnError } from '../../../src/core/errors.js';
import type { SeededRandom } from '../../../src/core/random.js';
import { pick } from '../../../src/core/random.js';
import type { LogState } from '../../../src/master/state/log-state.js';
import type { Mutation } from '../../../src/master/state/state.js';
import { MASTER_METHODS } from '../../../src/protocol/methods.js';
import { BelievingClient, CALLER, isExpected } from '../support/believing-client.js';
import { MasterCluster } from '../support/master-cluster.js';

const m = MASTER_METHODS;
const NAMES = ['a', 'b', 'c', 'd'];
const STEPS = Number(process.env['CAIRN_STEPS'] ?? 600);

class Story {
  readonly cluster = new MasterCluster();
  readonly clients: BelievingClient[] = [];
  readonly differences: string[] = [];
  readonly log: string[] = [];
  believed = 0;
  changed = 0;
  private readonly inodes = new Set([1]);
  private readonly directories = new Set([1]);
  private readonly busy = new Map<BelievingClient, number>();
  /** Until then it neither keeps its session nor does anything else, and answers no recall. */
  private readonly stoppedUntilMs = new Map<BelievingClient, number>();

  constructor(private readonly random: SeededRandom) {}

  async start(): Promise<void> {
    await this.cluster.start(0);
    this.watch();
    for (let i = 0; i < 3; i++) {
      const client: BelievingClient = new BelievingClient(this.cluster, () => this.recallMs(client));
      this.clients.push(client);
      await this.cluster.until(client.connect());
    }
  }

  /** After each change, in its tick. */
  watch(): void {
    const state: LogState = this.cluster.parts.state;
    const mutate = state.mutate.bind(state);
    state.mutate = <T>(decide: (mutation: Mutation) => T): T => {
      const result = mutate(decide);
      this.changed++;
      this.check('a change');
      return result;
    };
  }

  check(when: string): void {
    if (this.differences.length > 0) return;
    this.clients.forEach((client, at) => {
      this.believed += client.beliefs;
      for (const what of client.differences(this.cluster.parts.state)) {
        this.differences.push(`client ${at} at ${when}: ${what}`);
      }
    });
  }

  private recallMs(client: BelievingClient): number {
    const stoppedMs = (this.stoppedUntilMs.get(client) ?? 0) - this.cluster.clock.monotonicMs();
    if (stoppedMs > 0) return stoppedMs;
    const chance = this.random.below(100);
    if (chance < 1) return 15_000;
    return chance < 50 ? 0 : this.random.below(200);
  }

  private place(): { readonly parent: number; readonly name: Buffer } {
    return { parent: pick(this.random, [...this.directories]), name: Buffer.from(pick(this.random, NAMES)) };
  }

  private async operation(client: BelievingClient): Promise<void> {
    const { random } = this;
    const inode = pick(random, [...this.inodes]);
    const { parent, name } = this.place();
    const noted = (found: number): void => {
      this.inodes.add(found);
    };
    const doing = async (what: string, work: () => Promise<unknown>): Promise<void> => {
      this.log.push(`${this.clients.indexOf(client)} ${what}`);
      await work();
    };
    // One changes things, the others mostly look.
    const looks = random.below(10) < (client === this.clients[0] ? 4 : 9);
    switch (looks ? random.below(11) : 11 + random.below(13)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        return doing('lookup', () => client.lookup(parent, name.toString()));
      case 5:
      case 6:
      case 7:
        return doing('getAttributes', () => client.getAttributes(inode));
      case 8:
      case 9:
        return doing('list', () => client.list(parent));
      case 10:
        return doing('open', () => client.open(parent, name.toString()));
      case 11:
        return doing('release', () => client.release(pick(random, [...client.holdings.keys(), 1])));
      case 12:
        return doing('mkdir', async () => {
          if (this.directories.size > 5) return;
          const request = { caller: CALLER, parent, name, mode: 0o040755, hold: true };
          const reply = await client.change(m.create, request, ({ attributes, parent: now }) => [attributes, now]);
          noted(reply.attributes?.inode ?? 1);
          this.directories.add(reply.attributes?.inode ?? 1);
        });
      case 13:
        return doing('rmdir', () => client.change(m.unlink, { caller: CALLER, parent, name, directory: true }));
      case 14:
      case 15: {
        const { parent: newParent, name: newName } = this.place();
        const flags = pick(random, [0, 0, 0, 1, 2, 4]);
        const request = { caller: CALLER, parent, name, newParent, newName, flags };
        const told = (reply: { parent: unknown; newParent: unknown }) => [reply.parent, reply.newParent] as never[];
        return doing('rename', () => client.change(m.rename, request, told));
      }
      case 16:
        return doing('link', () => client.change(m.link, { caller: CALLER, inode, parent, name }, (reply) => [reply]));
      case 17:
        return doing('unlink', () =>
          client.change(m.unlink, { caller: CALLER, parent, name }, (reply) => [reply.parent]),
        );
      case 18: {
        const about = pick(random, [
          { mode: 0o600 + random.below(64) },
          { size: random.below(5) * 1000 },
          { mtimeNow: true, atimeNow: true },
        ]);
        return doing('setAttributes', () =>
          client.change(m.setAttributes, { caller: CALLER, inode, ...about }, (reply) => [reply]),
        );
      }
      case 19: {
        const request = {
          inode,
          end: random.below(100_000),
          durable: random.below(4) === 0,
          mtime: this.cluster.clock.now(),
        };
        return doing('publish', () => client.change(m.publish, request, (reply) => [reply]));
      }
      case 20: {
        const xattr = { caller: CALLER, inode, name: Buffer.from('user.x'), value: Buffer.from('1') };
        return doing('setXattr', () => client.change(m.setXattr, xattr));
      }
      default: {
        const openFlags = pick(random, [0, 2, 2 | 4]);
        const request = { caller: CALLER, parent, name, mode: 0o100644, openFlags, hold: random.below(2) === 0 };
        return doing(`create ${openFlags}`, async () => {
          const reply = await client.change(m.create, request, ({ attributes, parent: now }) => [attributes, now]);
          noted(reply.attributes?.inode ?? 1);
        });
      }
    }
  }

  private async act(client: BelievingClient): Promise<void> {
    try {
      if (client.peer.isClosed) await client.connect();
      else await this.operation(client);
    } catch (error) {
      if (!isExpected(error)) throw error;
    }
  }

  async run(t: Test): Promise<void> {
    const { random, cluster } = this;
    let failure: Error | undefined;
    for (let step = 0; step < STEPS && this.differences.length === 0 && failure === undefined; step++) {
      const nowMs = cluster.clock.monotonicMs();
      for (const client of this.clients) {
        if (nowMs < (this.stoppedUntilMs.get(client) ?? 0)) continue;
        const busy = this.busy.get(client) ?? 0;
        if (busy >= 3 || (client.peer.isClosed && busy > 0)) continue;
        this.busy.set(client, busy + 1);
        const done = (): void => void this.busy.set(client, (this.busy.get(client) ?? 1) - 1);
        this.act(client).then(done, (error: unknown) => (failure = asCairnError(error)));
        if (step % 20 === 0) client.keep().catch(() => undefined);
      }
      const chance = random.below(400);
      const client = pick(random, this.clients);
      if (chance === 0) client.peer.close('cut off');
      else if (chance === 1) this.stop(client, nowMs);
      else if (chance === 2) {
        this.log.push('the master is killed');
        await cluster.restartMaster('kill');
        this.watch();
      }
      await cluster.wait(random.below(10) === 0 ? 500 : 20);
      this.check('a step');
    }
    if (failure !== undefined) throw failure;
    t.same(this.differences.slice(0, 3), [], this.log.slice(-30).join('\n'));
  }

  private stop(client: BelievingClient, nowMs: number): void {
    this.log.push(`${this.clients.indexOf(client)} stands still`);
    this.stoppedUntilMs.set(client, nowMs + this.random.below(20_000));
  }
}

t.test('P2: nobody believes what is not so', async (t) => {
  const random = seededRandom(t);
  let believed = 0;
  for (let round = 0; round < 3; round++) {
    const story = new Story(random);
    await story.start();
    await story.run(t);
    t.comment(`${story.changed} changes, ${story.believed} beliefs compared`);
    believed += story.believed;
    await story.cluster.stop();
  }
  t.ok(believed > 2000, 'something was believed');
});
