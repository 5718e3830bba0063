/** fcntl(2) record locks and flock(2), within a client and between two. */
import assert from 'node:assert/strict';
import type { InodeId } from '../../../src/core/ids.js';
import { MAX_LOCK_END } from '../../../src/core/lock-ranges.js';
import type { FileSystem, LockKind, LockRequest, OpenFile } from '../../../src/filesystem/filesystem.js';
import { fails, name } from '../case.js';
import type { CaseContext, ConformanceCase } from '../case.js';

/** Two clients with one file open, and short ways to lock it. */
class Locked {
  private constructor(
    readonly c: CaseContext,
    readonly inode: InodeId,
    readonly files: readonly OpenFile[],
  ) {}

  static async open(c: CaseContext, text = 'f'): Promise<Locked> {
    const inode = await c.file(text, name('content'));
    return new Locked(c, inode, [await c.opened(inode), await c.opened(inode, undefined, c.other)]);
  }

  async close(): Promise<void> {
    for (const file of this.files) await file.close();
  }

  /** A program: an owner in a client. */
  program(owner: string, fs = this.c.fs, kind: LockKind = 'posix'): Program {
    return new Program(this.inode, fs, owner, kind);
  }
}

class Program {
  constructor(
    private readonly inode: InodeId,
    readonly fs: FileSystem,
    private readonly owner: string,
    private readonly kind: LockKind,
  ) {}

  private request(type: LockRequest['type'], start: number, end: number): LockRequest {
    return { kind: this.kind, type, start, end, owner: this.owner, pid: this.owner.charCodeAt(0) };
  }

  at(inode: InodeId): Program {
    return new Program(inode, this.fs, this.owner, this.kind);
  }

  lock(type: LockRequest['type'], start = 0, end = MAX_LOCK_END): Promise<void> {
    return this.fs.setLock(this.inode, this.request(type, start, end), { wait: false });
  }

  wait(type: 'read' | 'write', start = 0, end = MAX_LOCK_END, signal?: AbortSignal): Waiting {
    const request = this.request(type, start, end);
    return new Waiting(this.fs.setLock(this.inode, request, { wait: true, ...(signal !== undefined && { signal }) }));
  }

  async inTheWay(type: 'read' | 'write', start = 0, end = MAX_LOCK_END): Promise<string> {
    const found = await this.fs.getLock(this.inode, this.request(type, start, end));
    return found === undefined ? 'none' : `${found.type} ${found.start} ${found.end}`;
  }

  async pidInTheWay(): Promise<number | undefined> {
    return (await this.fs.getLock(this.inode, this.request('write', ...whole)))?.pid;
  }

  /** What this program finds locked by others, byte by byte of the first ten. */
  async map(): Promise<string> {
    let map = '';
    for (let at = 0; at < 10; at++) {
      if ((await this.inTheWay('read', at, at)) !== 'none') map += 'w';
      else map += (await this.inTheWay('write', at, at)) === 'none' ? '.' : 'r';
    }
    return map;
  }

  release(): Promise<void> {
    return this.fs.releaseLocks(this.inode, this.kind, this.owner);
  }
}

class Waiting {
  ended = false;

  constructor(readonly promise: Promise<void>) {
    const end = (): void => {
      this.ended = true;
    };
    promise.then(end, end);
  }
}

const whole = [0, MAX_LOCK_END] as const;

export const lockCases: readonly ConformanceCase[] = [
  {
    name: 'locks: readers share, a writer excludes, in one client and between two',
    run: async (c) => {
      const l = await Locked.open(c);
      for (const fs of [c.fs, c.other]) {
        const [a, b] = [l.program('a'), l.program('b', fs)];
        await a.lock('read');
        await b.lock('read');
        await fails('EAGAIN', a.lock('write'));
        await fails('EAGAIN', b.lock('write', 5, 5));
        await b.lock('unlock');
        await a.lock('write');
        await fails('EAGAIN', b.lock('read', 100, 200));
        await a.lock('write');
        await a.lock('unlock');
        await b.lock('write');
        await b.release();
      }
      await l.close();
    },
  },
  {
    name: 'locks: F_GETLK tells the lock in the way, and of whom',
    run: async (c) => {
      const l = await Locked.open(c);
      const [a, b, far] = [l.program('a'), l.program('b'), l.program('f', c.other)];
      await a.lock('read', 10, 19);
      await a.lock('write', 30, 39);
      assert.equal(await a.inTheWay('write', ...whole), 'none', 'never its own');
      assert.equal(await b.inTheWay('read', ...whole), 'write 30 39');
      assert.equal(await b.inTheWay('write', ...whole), 'read 10 19');
      assert.equal(await b.inTheWay('read', 0, 29), 'none');
      assert.equal(await far.inTheWay('write', 35, 35), 'write 30 39');
      assert.equal(await b.pidInTheWay(), 'a'.charCodeAt(0));
      await a.release();
      assert.equal(await b.inTheWay('write', ...whole), 'none');
      await l.close();
    },
  },
  {
    name: 'locks: F_GETLK says pid 0 of who is on another machine',
    run: async (c) => {
      const l = await Locked.open(c);
      const a = l.program('a');
      await a.lock('write', 30, 39);
      assert.equal(await l.program('f', c.other).pidInTheWay(), 0);
      await a.release();
      await l.close();
    },
  },
  {
    name: 'locks: ranges split, merge, change their type',
    run: async (c) => {
      const l = await Locked.open(c);
      const [a, b] = [l.program('a'), l.program('b', c.other)];
      await a.lock('write', 0, 9);
      await a.lock('unlock', 3, 4);
      assert.equal(await b.map(), 'www..wwwww');
      await a.lock('read', 1, 6);
      assert.equal(await b.map(), 'wrrrrrrwww');
      await a.lock('write', 2, 2);
      assert.equal(await b.map(), 'wrwrrrrwww');
      await a.lock('read', 0, 9);
      assert.equal(await b.inTheWay('write', ...whole), 'read 0 9', 'neighbours are one lock');
      await b.lock('read', 5, 20);
      await fails('EAGAIN', a.lock('write', 0, 5));
      assert.equal(await b.map(), 'rrrrrrrrrr', 'a refused change changes nothing');
      await a.lock('write', 0, 4);
      await a.lock('unlock', 2, MAX_LOCK_END);
      assert.equal(await b.map(), 'ww........');
      await a.lock('unlock');
      await fails('EINVAL', a.lock('write', 5, 4));
      await b.release();
      await l.close();
    },
  },
  {
    name: 'locks: kinds, owners and files do not meet',
    run: async (c) => {
      const l = await Locked.open(c);
      const other = await Locked.open(c, 'g');
      await l.program('a').lock('write');
      await l.program('a', c.fs, 'flock').lock('write');
      await l.program('a', c.other, 'flock').fs.releaseLocks(l.inode, 'flock', 'a');
      await fails('EAGAIN', l.program('b', c.fs, 'flock').lock('read'));
      await fails('EAGAIN', l.program('a', c.other).lock('read'));
      await other.program('b').lock('write');
      await l.program('a').release();
      await l.program('a', c.other).lock('read');
      await fails('EAGAIN', l.program('b', c.other, 'flock').lock('read'));
      await l.close();
      await other.close();
    },
  },
  {
    name: 'locks: who waits gets the lock in the order of asking',
    run: async (c) => {
      const l = await Locked.open(c);
      const [a, b, d] = [l.program('a'), l.program('b', c.other), l.program('d')];
      await a.lock('write', 0, 9);
      const first = b.wait('write', 0, 4);
      await c.settle();
      const second = d.wait('read', 4, 5);
      await c.settle();
      const apart = l.program('e').wait('write', 7, 7);
      await c.settle();
      assert.deepEqual([first.ended, second.ended, apart.ended], [false, false, false]);
      await a.lock('unlock', 6, 9);
      await apart.promise;
      await c.settle();
      assert.deepEqual([first.ended, second.ended], [false, false]);
      await a.lock('unlock');
      await first.promise;
      await c.settle();
      assert.equal(second.ended, false);
      await fails('EAGAIN', a.lock('write', 4, 4));
      await b.lock('unlock');
      await second.promise;
      await d.release();
      await l.program('e').release();
      await l.close();
    },
  },
  {
    name: 'locks: a wait ends with EINTR, and nothing is held then',
    run: async (c) => {
      const l = await Locked.open(c);
      const [a, b] = [l.program('a'), l.program('b', c.other)];
      await a.lock('read');
      await b.lock('read', 0, 0);
      const abort = new AbortController();
      const waiting = b.wait('write', 0, 9, abort.signal);
      await c.settle();
      assert.equal(waiting.ended, false);
      abort.abort();
      await fails('EINTR', waiting.promise);
      assert.equal(await a.inTheWay('write'), 'read 0 0', 'what was held before still is');
      await fails('EINTR', b.wait('write', 0, 9, abort.signal).promise);
      await a.lock('unlock');
      await a.lock('write', 1, 9);
      await a.release();
      await b.release();
      await l.close();
    },
  },
  {
    name: 'locks: EDEADLK only for a circle',
    run: async (c) => {
      const l = await Locked.open(c);
      const g = await Locked.open(c, 'g');
      const [a, b, d] = [l.program('a'), l.program('b', c.other), l.program('d')];
      await a.lock('write', 0, 0);
      await b.lock('write', 1, 1);
      await d.at(g.inode).lock('write');
      const one = a.wait('write', 1, 1);
      await c.settle();
      const two = b.at(g.inode).wait('read');
      await c.settle();
      await fails('EDEADLK', d.wait('read', 0, 0).promise);
      assert.deepEqual([one.ended, two.ended], [false, false]);
      await d.at(g.inode).lock('unlock');
      await two.promise;
      await b.lock('unlock');
      await one.promise;
      await a.lock('read', 5, 5);
      await b.lock('read', 5, 5);
      const upgrade = a.wait('write', 5, 5);
      await c.settle();
      await fails('EDEADLK', b.wait('write', 5, 5).promise);
      await b.release();
      await upgrade.promise;
      await a.release();
      await b.at(g.inode).release();
      await l.close();
      await g.close();
    },
  },
  {
    name: 'flock: shared and exclusive, and a change drops what was held',
    run: async (c) => {
      const l = await Locked.open(c);
      const [a, b] = [l.program('a', c.fs, 'flock'), l.program('b', c.other, 'flock')];
      await a.lock('read');
      await b.lock('read');
      const up = a.wait('write');
      await c.settle();
      assert.equal(up.ended, false);
      await b.lock('write');
      await c.settle();
      assert.equal(up.ended, false, 'a has dropped its shared lock, so b could have the exclusive one');
      await b.lock('read');
      await fails('EAGAIN', l.program('x', c.fs, 'flock').lock('write'));
      await b.release();
      await up.promise;
      await fails('EAGAIN', b.lock('read'));
      await a.lock('unlock');
      await b.lock('write');
      await b.lock('read');
      // Whoever waits for it gets it with the close; a mount hears of the last close a moment later.
      const waiting = a.wait('write');
      await c.settle();
      await b.release();
      await waiting.promise;
      await a.release();
      await l.close();
    },
  },
  {
    name: 'locks: releasing an owner frees all that it holds, for who waits too',
    run: async (c) => {
      const l = await Locked.open(c);
      const [a, b] = [l.program('a'), l.program('b', c.other)];
      await a.lock('write', 0, 1);
      await a.lock('read', 5, 6);
      const waiting = b.wait('write');
      await c.settle();
      assert.equal(waiting.ended, false);
      await a.release();
      await waiting.promise;
      await a.release();
      await b.release();
      await l.close();
    },
  },
  {
    name: 'P2: who gets a lock sees what its last holder wrote',
    run: async (c) => {
      const l = await Locked.open(c);
      const [mine, theirs] = l.files;
      assert.ok(mine !== undefined && theirs !== undefined);
      const [a, b] = [l.program('a'), l.program('b', c.other)];
      assert.equal((await theirs.read(0, 100)).toString(), 'content');
      for (let round = 0; round < 5; round++) {
        await a.lock('write');
        const waiting = b.wait('write');
        await mine.write(0, name(`round ${round} of a`));
        await a.lock('unlock');
        await waiting.promise;
        assert.equal((await theirs.read(0, 100)).toString(), `round ${round} of a`);
        await theirs.write(11, name('b'));
        await b.lock('read');
        await a.lock('read');
        assert.equal((await mine.read(0, 100)).toString(), `round ${round} of b`);
        await a.release();
        await b.release();
      }
      await l.close();
    },
  },
];
