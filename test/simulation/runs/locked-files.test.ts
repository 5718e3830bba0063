/**
 * P1, P2, P7: programs on three clients change two files, one after another, as a lock on the first says, while clients stand
 * still for longer than their sessions, are cut off from the master or the chunkservers, and servers are killed. Whoever has
 * the lock sees what the holder before flushed or synced, and what the one before left behind unfinished does not change
 * any more once it was seen.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { CairnError } from '../../../src/core/errors.js';
import { KIB } from '../../../src/core/limits.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import { pick, SeededRandom } from '../../../src/core/random.js';
import { Mutex } from '../../../src/core/sync.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import type { LockKind, LockRequest, OpenFile } from '../../../src/filesystem/filesystem.js';
import { seeds } from '../world/seeds.js';
import { READ_WRITE, root } from '../world/story.js';
import { MASTER, World } from '../world/world.js';

t.setTimeout(0);

const CLIENTS = ['client-1', 'client-2', 'client-3'];
const NAMES = ['locked', 'beside'] as const;
const MAX_SIZE = 400 * KIB;
const SOURCE_SIZE = 300 * KIB;
/** Some give up soon. */
const TIMEOUTS_MS = [8_000, 20_000, 60_000, 60_000];
const WORK_MS = 6 * 60_000;
/** What is told with a failure. */
const MAX_EVENTS = 30;

const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** What a file may hold; undefined when somebody left it unfinished. */
type Content = string | undefined;

class LockedWork {
  private readonly contents = new Map<string, Content>();
  /** Counts grants: who had the lock before knows nothing any more. */
  private grants = 0;
  private tokens = 0;
  private readonly turns = new Mutex('program');
  /** Whose programs were granted the lock last. */
  private holder = CLIENTS[0] ?? '';
  isOver = false;
  readonly counts: Record<string, number> = {};
  private readonly events: string[] = [];

  constructor(
    private readonly world: World,
    private readonly random: SeededRandom,
    private readonly kind: LockKind | 'turns',
  ) {
    for (const name of NAMES) this.contents.set(name, hashOf(Buffer.alloc(0)));
  }

  private note(event: string): void {
    this.events.push(`${(this.world.clock.nowUs / 1e6).toFixed(3)} ${event}`);
    if (this.events.length > MAX_EVENTS) this.events.shift();
  }

  private count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  private open(fs: ClusterFileSystem, name: string): Promise<OpenFile> {
    return fs.openAt(root, ROOT_INODE, Buffer.from(name), READ_WRITE).then(({ file }) => file);
  }

  program(fs: ClusterFileSystem, owner: string): Promise<void> {
    return this.kind === 'turns' ? this.programInTurn(fs, owner) : this.programWithLock(fs, owner, this.kind);
  }

  /** Without locks: the next one begins when the last has closed all, or was told that it could not. */
  private async programInTurn(fs: ClusterFileSystem, owner: string): Promise<void> {
    while (!this.isOver) {
      await this.turns.run(() => this.takeTurn(fs, owner));
      await this.world.sleep(this.random.below(3_000));
    }
  }

  private async takeTurn(fs: ClusterFileSystem, owner: string): Promise<void> {
    const grant = ++this.grants;
    this.holder = CLIENTS[Number(owner[0])] ?? this.holder;
    this.note(`${owner} has turn ${grant}`);
    const opened = new Map<string, OpenFile>();
    try {
      for (const name of NAMES) opened.set(name, await this.open(fs, name));
      for (const [name, file] of opened) await this.change(fs, name, file, grant);
    } catch (error) {
      this.noteError(error, owner);
    }
    for (const [name, file] of opened) {
      try {
        await file.close();
      } catch (error) {
        this.noteError(error, owner);
        this.contents.set(name, undefined);
      }
    }
    this.note(`${owner} is done`);
  }

  private noteError(error: unknown, owner: string): void {
    if (!(error instanceof CairnError)) throw error;
    this.count(error.code);
    this.note(`${owner} ${error.code} ${error.message}`);
  }

  private async programWithLock(fs: ClusterFileSystem, owner: string, kind: LockKind): Promise<void> {
    const { world, random } = this;
    while (!this.isOver) {
      const opened: OpenFile[] = [];
      try {
        const locked = await this.open(fs, 'locked');
        opened.push(locked);
        for (let turns = 1 + random.below(4); turns > 0 && !this.isOver; turns--) {
          const lock = { kind, owner, type: 'write', start: 0, end: MAX_LOCK_END, pid: 1 } as const;
          await this.lock(fs, locked, lock);
          const grant = ++this.grants;
          this.holder = CLIENTS[Number(owner[0])] ?? this.holder;
          this.note(`${owner} granted ${grant}`);
          await this.change(fs, 'locked', locked, grant);
          const beside = await this.open(fs, 'beside');
          opened.push(beside);
          await this.change(fs, 'beside', beside, grant);
          if (random.below(2) === 0) await this.change(fs, 'locked', locked, grant);
          if (random.below(2) === 0) {
            opened.pop();
            await beside.close();
          }
          this.note(`${owner} unlocks`);
          await fs.setLock(locked.inode, { ...lock, type: 'unlock' }, { wait: false });
          await world.sleep(random.below(4_000));
        }
      } catch (error) {
        this.noteError(error, owner);
      }
      for (const file of opened) {
        await fs.releaseLocks(file.inode, kind, owner).catch(() => undefined);
        await file.close().catch(() => undefined);
      }
      await world.sleep(random.below(3_000));
    }
  }

  /** Some give up when they had to wait for long. */
  private async lock(fs: ClusterFileSystem, file: OpenFile, lock: LockRequest): Promise<void> {
    const controller = new AbortController();
    let isAsking = true;
    if (this.random.below(4) === 0) {
      const lengthMs = this.random.below(20_000);
      void this.world.sleep(lengthMs).then(() => isAsking && controller.abort());
    }
    try {
      await fs.setLock(file.inode, lock, { wait: true, signal: controller.signal });
    } finally {
      isAsking = false;
    }
  }

  private async change(fs: ClusterFileSystem, name: string, file: OpenFile, grant: number): Promise<void> {
    const { random } = this;
    const before = Buffer.from(await file.read(0, MAX_SIZE + 1));
    if (grant !== this.grants) return this.count('late');
    const allowed = this.contents.get(name);
    if (allowed !== undefined && hashOf(before) !== allowed) {
      assert.fail(
        `${name}: a holder of the lock sees ${describe(before)}, which is not what the last one left; before:\n${this.events.join('\n')}`,
      );
    }
    this.count(allowed === undefined ? 'settled' : 'checked');
    this.contents.set(name, hashOf(before));
    if (random.below(8) === 0) return;
    const token = Buffer.alloc(1 + random.below(60) * KIB, String.fromCharCode(33 + (this.tokens++ % 90)));
    const how = pick(random, ['write', 'write', 'append', 'cut', 'copy', 'punch'] as const);
    this.contents.set(name, undefined);
    let after: Buffer;
    this.note(`grant ${grant} ${how} ${name} on ${describe(before)} token ${token.length} x ${token[0]}`);
    if (how === 'cut' || before.length + token.length > MAX_SIZE) {
      await file.truncate(0);
      await file.write(0, token);
      after = token;
    } else if (how === 'append') {
      await file.write(before.length, token);
      after = Buffer.concat([before, token]);
    } else if (how === 'punch') {
      const length = Math.min(before.length, 10 * KIB + random.below(100 * KIB));
      if (length > 0) await file.allocate(0, length, { punchHole: true, keepSize: true });
      after = Buffer.from(before).fill(0, 0, length);
    } else if (how === 'copy') {
      const source = await this.open(fs, `source-${random.below(CLIENTS.length)}`);
      try {
        const bytes = Buffer.from(await source.read(0, SOURCE_SIZE));
        let copied = 0;
        while (copied < SOURCE_SIZE) copied += await file.copyFrom(source, copied, copied, SOURCE_SIZE - copied);
        after = Buffer.concat([bytes, before.subarray(SOURCE_SIZE)]);
      } finally {
        await source.close();
      }
    } else {
      await file.write(0, token);
      after = Buffer.concat([token, before.subarray(token.length)]);
    }
    if (random.below(3) === 0) await this.world.sleep(random.below(4_000));
    if (random.below(2) === 0) await file.sync();
    else await file.flush();
    if (grant !== this.grants) return this.count('late');
    this.count(how);
    this.note(`grant ${grant} done ${name} ${describe(after)}`);
    this.contents.set(name, hashOf(after));
  }

  /** One misfortune after another. */
  async trouble(): Promise<void> {
    const { world, random } = this;
    const servers = world.chunkservers;
    while (!this.isOver) {
      await world.sleep(random.below(5_000));
      const client = random.below(2) === 0 ? this.holder : pick(random, CLIENTS);
      const lengthMs = pick(random, [500, 3_000, 12_000, 40_000, 70_000, 100_000]) + random.below(3_000);
      const what = pick(random, [
        'freeze',
        'suspend',
        'master',
        'servers',
        'refuse',
        'one',
        'kill-master',
        'kill-server',
        'two',
      ]);
      const server = pick(random, servers);
      this.count(`fault ${what}`);
      this.note(`fault ${what} ${client} ${server} ${lengthMs}`);
      if (what === 'freeze' || what === 'suspend') {
        world.freeze(client, what === 'freeze' ? 'stopped' : 'suspended');
        await world.sleep(lengthMs);
        world.thaw(client);
      } else if (what === 'kill-master' || what === 'kill-server') {
        const host = what === 'kill-master' ? MASTER : server;
        await world.kill(host);
        await world.sleep(Math.min(lengthMs, 45_000));
        await world.start(host);
      } else if (what === 'two') {
        world.network.partition(client, MASTER);
        await world.sleep(random.below(lengthMs));
        world.freeze(client, 'stopped');
        await world.sleep(lengthMs);
        world.thaw(client);
        await world.sleep(random.below(5_000));
        world.network.heal(client, MASTER);
      } else {
        const peers = what === 'servers' ? servers : [what === 'one' ? server : MASTER];
        for (const peer of peers) {
          if (what === 'refuse') world.network.refuse(client, peer);
          else world.network.partition(client, peer, random.below(3) === 0);
        }
        await world.sleep(lengthMs);
        for (const peer of peers) world.network.heal(client, peer);
      }
    }
  }
}

const describe = (bytes: Buffer): string => {
  const runs: string[] = [];
  for (let at = 0; at < bytes.length && runs.length < 12;) {
    let end = at;
    while (end < bytes.length && bytes[end] === bytes[at]) end++;
    runs.push(`${end - at} x ${bytes[at]}`);
    at = end;
  }
  return `${bytes.length} bytes (${runs.join(', ')})`;
};

for (const seed of seeds(6, 901)) {
  t.test(`P1, P2, P7: files that are changed under a lock by three clients in trouble: seed ${seed}`, async (t) => {
    const world = new World({ seed });
    const random = new SeededRandom(seed ^ 0x10cced);
    const work = new LockedWork(world, random, pick(random, ['posix', 'flock', 'turns'] as const));
    await world.runReported(async () => {
      await world.startAll();
      const clients: ClusterFileSystem[] = [];
      for (const name of CLIENTS) {
        clients.push(await world.connect(name, { operationTimeoutMs: pick(random, TIMEOUTS_MS) }));
      }
      const [first] = clients;
      assert.ok(first !== undefined);
      const flags = READ_WRITE;
      for (const name of NAMES)
        await (await first.create(root, ROOT_INODE, Buffer.from(name), { mode: 0o644, flags })).file.close();
      for (const index of CLIENTS.keys()) {
        const { file } = await first.create(root, ROOT_INODE, Buffer.from(`source-${index}`), { mode: 0o644, flags });
        await file.write(0, Buffer.alloc(SOURCE_SIZE, 200 + index));
        await file.sync();
        await file.close();
      }
      const programs = clients.flatMap((fs, index) => [0, 1].map((each) => work.program(fs, `${index}-${each}`)));
      const trouble = work.trouble();
      await world.sleep(WORK_MS);
      work.isOver = true;
      await Promise.all([...programs, trouble]);
    });
    t.comment(JSON.stringify(work.counts));
    world.stop();
  });
}
