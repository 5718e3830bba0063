/** A mount whose files another mount changes, in a process of its own. */
import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { deferred } from '../../src/core/sync.js';
import type { Deferred } from '../../src/core/sync.js';
import type { Order, Outcome, There, Tuning } from './recalled-server.js';

const SERVER = fileURLToPath(new URL('recalled-server.js', import.meta.url));

export class RecalledMount {
  private next = 1;
  private readonly waiting = new Map<number, Deferred<Outcome>>();

  private constructor(
    readonly path: string,
    private readonly server: ChildProcess,
  ) {
    server.on('message', (outcome: Outcome) => this.waiting.get(outcome.id)?.resolve(outcome));
    server.on('exit', (code, signal) => {
      for (const { reject } of this.waiting.values()) reject(new Error(`the mount has ended: ${code ?? signal}`));
    });
  }

  static async start(t: Pick<Test, 'teardown'>, seed: number, ...flags: readonly string[]): Promise<RecalledMount> {
    const path = await mkdtemp(join(tmpdir(), 'cairn-recalled-'));
    const server = fork(SERVER, [path, String(seed), ...flags], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const mount = new RecalledMount(path, server);
    const ready = deferred<Outcome>();
    mount.waiting.set(0, ready);
    t.teardown(async () => {
      await mount.end();
      await rm(path, { recursive: true, force: true });
    });
    await ready.promise;
    return mount;
  }

  /** What is there afterwards. Throws what the other mount is told. */
  async change(order: Omit<Order, 'id'>): Promise<There | undefined> {
    const { error, there } = await this.send(order);
    if (error !== undefined) throw new Error(`${order.what} ${order.path}: ${error}`);
    return there;
  }

  /** As `change`; a refusal changes nothing. */
  async try(order: Omit<Order, 'id'>): Promise<Outcome> {
    return this.send(order);
  }

  async counts(): Promise<Readonly<Record<string, number>>> {
    return (await this.send({ what: 'counts', path: '/' })).counts ?? {};
  }

  async tune(tuning: Tuning): Promise<void> {
    await this.change({ what: 'tune', path: '/', text: JSON.stringify(tuning) });
  }

  private async send(order: Omit<Order, 'id'>): Promise<Outcome> {
    const id = this.next++;
    const waiter = deferred<Outcome>();
    this.waiting.set(id, waiter);
    this.server.send({ ...order, id } satisfies Order);
    try {
      return await waiter.promise;
    } finally {
      this.waiting.delete(id);
    }
  }

  private async end(): Promise<void> {
    if (this.server.exitCode !== null) return;
    const gone = new Promise((resolve) => this.server.on('exit', resolve));
    this.send({ what: 'unmount', path: '/' }).catch(() => undefined);
    const timer = setTimeout(() => this.server.kill('SIGKILL'), 5_000);
    await gone;
    clearTimeout(timer);
  }
}
