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
import type { Change, There } from '../support/models/other-mount.js';
import type { Order, Outcome, Tuning } from './recalled-server.js';

const SERVER = fileURLToPath(new URL('recalled-server.js', import.meta.url));

type Unnumbered = Order extends infer O ? (O extends { readonly id: number } ? Omit<O, 'id'> : never) : never;

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

  /** Throws what the other mount is told. */
  async change(change: Change): Promise<void> {
    const error = await this.try(change);
    if (error !== undefined) throw new Error(`${change.what} ${change.path}: ${error}`);
  }

  /** As `change`; returns what the other mount is told, when that changes nothing. */
  async try(change: Change): Promise<string | undefined> {
    return (await this.send(change)).error;
  }

  /** What is at a path, or of an inode. */
  async look(path: string, inode?: number): Promise<There | undefined> {
    return (await this.send({ what: 'look', path, ...(inode !== undefined && { inode }) })).there;
  }

  async counts(): Promise<Readonly<Record<string, number>>> {
    return (await this.send({ what: 'counts' })).counts ?? {};
  }

  async tune(tuning: Tuning): Promise<void> {
    await this.send({ what: 'tune', tuning });
  }

  private async send(unnumbered: Unnumbered): Promise<Outcome> {
    const id = this.next++;
    const order: Order = { ...unnumbered, id };
    const waiter = deferred<Outcome>();
    this.waiting.set(id, waiter);
    this.server.send(order);
    try {
      return await waiter.promise;
    } finally {
      this.waiting.delete(id);
    }
  }

  private async end(): Promise<void> {
    if (this.server.exitCode !== null) return;
    const gone = new Promise((resolve) => this.server.on('exit', resolve));
    this.send({ what: 'unmount' }).catch(() => undefined);
    const timer = setTimeout(() => this.server.kill('SIGKILL'), 5_000);
    await gone;
    clearTimeout(timer);
  }
}
