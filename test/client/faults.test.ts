/** What the client does when servers fail: failover, repeats in order, errors told once, nothing done twice. */
import t from 'tap';
import { deferred } from '../../src/core/sync.js';
import type { Test } from 'tap';
import { CairnError, hasCode } from '../../src/core/errors.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { KIB, MIB } from '../../src/core/limits.js';
import { ROOT_CREDENTIALS as root, type FileSystem, type OpenFile } from '../../src/filesystem/filesystem.js';
import { pattern } from '../conformance/case.js';
import { hookedCluster, type HookedCluster } from '../support/hooked-cluster.js';

const READ_WRITE = { read: true, write: true };
const name = (text: string): Buffer => Buffer.from(text);

async function create(fs: FileSystem, text: string): Promise<OpenFile> {
  return (await fs.create(root, ROOT_INODE, name(text), { mode: 0o644, flags: READ_WRITE })).file;
}

async function content(fs: FileSystem, text: string): Promise<Buffer> {
  const { file, attributes } = await fs.openAt(root, ROOT_INODE, name(text), { read: true, write: false });
  try {
    return Buffer.from(await file.read(0, attributes.size));
  } finally {
    await file.close();
  }
}

function test(title: string, run: (t: Test, cluster: HookedCluster) => Promise<void>): void {
  void t.test(title, async (t) => {
    const cluster = await hookedCluster();
    try {
      await run(t, cluster);
    } finally {
      await cluster.stop();
    }
  });
}

test('P3: a corrupt replica is reported and not served; another one is', async (t, cluster) => {
  const fs = await cluster.connect();
  const bytes = pattern(300_000);
  const file = await create(fs, 'f');
  await file.write(0, bytes);
  await file.close();
  let rotten: string | undefined;
  cluster.hooks.damage = (payload, server) => {
    if (payload.length === 0) return;
    rotten ??= server;
    if (server === rotten) payload[payload.length >> 1] = (payload[payload.length >> 1] ?? 0) ^ 1;
  };
  for (let i = 0; i < 4; i++) t.ok((await content(fs, 'f')).equals(bytes));
  t.ok(cluster.reports.length > 0);
  t.equal(new Set(cluster.reports.map(({ serverId }) => serverId)).size, 1);
  cluster.hooks.damage = (payload) => void payload.fill(1);
  await t.rejects(content(fs, 'f'), { code: 'EIO' }, 'all replicas corrupt');
});

test('P11: reads go on when a server hangs, and it is not asked again soon', async (t, cluster) => {
  const fs = await cluster.connect();
  const bytes = pattern(100_000);
  const file = await create(fs, 'f');
  await file.write(0, bytes);
  await file.close();
  let asked = 0;
  const never = new Promise<void>(() => undefined);
  const hanging = cluster.serverAddresses[1];
  cluster.hooks.read = (_request, server) => {
    if (server !== hanging) return;
    asked++;
    return never;
  };
  const begin = performance.now();
  for (let i = 0; i < 5; i++) t.ok((await content(fs, 'f')).equals(bytes));
  t.ok(performance.now() - begin < 4000);
  t.ok(asked <= 1);
});

test('a write is repeated under a new lease, and writes that overlap keep their order', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  const codes = ['STALE_VERSION', 'NOT_PRIMARY', 'UNAVAILABLE', 'BUSY', 'CORRUPT', 'cut', 'lost answer'] as const;
  for (const code of codes) {
    const expected = Buffer.alloc(64 * KIB);
    let failures = 2;
    cluster.hooks.write = (_request, server) => {
      if (failures === 0 || code === 'lost answer') return;
      failures--;
      if (code === 'cut') cluster.network.cut(server);
      else throw new CairnError(code, 'planted');
    };
    cluster.hooks.written = () => {
      if (failures === 0 || code !== 'lost answer') return;
      failures--;
      cluster.network.cut(cluster.serverAddresses[0] ?? '');
    };
    // Each write overlaps the one before, which may be in flight or repeated still.
    const flushes: Promise<void>[] = [];
    for (let i = 0; i < 40; i++) {
      const part = pattern(8 * KIB, i + code.length);
      part.copy(expected, i * 1000);
      await file.write(i * 1000, part);
      if (i % 5 === 0) flushes.push(file.flush());
    }
    await Promise.all(flushes);
    await file.write(60 * KIB, pattern(4 * KIB));
    pattern(4 * KIB).copy(expected, 60 * KIB);
    await file.sync();
    t.equal(failures, 0, code);
    t.ok((await file.read(0, 64 * KIB)).equals(expected), `${code}: own read`);
    const other = await cluster.connect();
    t.ok((await content(other, 'f')).equals(expected), `${code}: another client's read`);
    await file.truncate(0);
  }
  cluster.hooks.write = cluster.hooks.written = () => undefined;
  await file.close();
});

test('P7: a failed write-back is told once to each handle that was open, and nothing is dropped silently', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  const second = (await fs.openAt(root, ROOT_INODE, name('f'), READ_WRITE)).file;
  cluster.hooks.write = () => {
    throw new CairnError('ENOSPC', 'planted');
  };
  await file.write(0, pattern(100));
  await t.rejects(file.flush(), { code: 'ENOSPC' });
  await t.rejects(file.flush(), { code: 'ENOSPC' }, 'the first was perhaps that of a child process');
  await t.rejects(file.write(0, pattern(10)), { code: 'ENOSPC' });
  await file.flush();
  await t.rejects(second.write(0, pattern(10)), { code: 'ENOSPC' });
  const third = (await fs.openAt(root, ROOT_INODE, name('f'), READ_WRITE)).file;
  cluster.hooks.write = () => undefined;
  await third.write(0, name('good'));
  await third.close();
  await second.close();
  await file.close();
  t.equal((await content(fs, 'f')).toString(), 'good');
});

test('what was given up in doubt does not overwrite what is written after it', async (t, cluster) => {
  const fs = await cluster.connect({ operationTimeoutMs: 20 });
  const file = await create(fs, 'f');
  const leases: number[] = [];
  cluster.hooks.write = async ({ leaseId }, server) => {
    leases.push(leaseId);
    if (leases.length > 1) return;
    await new Promise((resolve) => setTimeout(resolve, 30));
    cluster.network.cut(server);
    await new Promise((resolve) => setTimeout(resolve, 100));
  };
  await file.write(0, name('older'));
  await t.rejects(file.sync(), { code: 'EIO' });
  await file.write(0, name('newer'));
  await file.flush();
  await new Promise((resolve) => setTimeout(resolve, 150));
  t.equal((await file.read(0, 10)).toString(), 'newer');
  t.not(leases[1], leases[0]);
  await file.close();
});

test('P7: close tells what write-behind lost', async (t, cluster) => {
  const fs = await cluster.connect({ operationTimeoutMs: 300 });
  const file = await create(fs, 'f');
  cluster.hooks.write = () => {
    throw new CairnError('UNAVAILABLE', 'planted');
  };
  await file.write(0, pattern(5 * MIB));
  await t.rejects(file.close(), { code: 'EIO' });
  cluster.hooks.write = () => undefined;
  t.equal((await fs.lookup(root, ROOT_INODE, name('f'))).size, 0, 'lost bytes are not published');
});

test('P6: a mutation whose answer is lost takes effect once', async (t, cluster) => {
  const fs = await cluster.connect();
  let cuts = 0;
  cluster.hooks.mutated = () => {
    if (cuts++ % 2 === 0) cluster.network.cut(cluster.masterAddress);
  };
  for (let i = 0; i < 6; i++) {
    await fs.makeNode(root, ROOT_INODE, name(`d${i}`), { kind: 'directory', mode: 0o755 });
    await fs.rename(root, { parent: ROOT_INODE, name: name(`d${i}`) }, { parent: ROOT_INODE, name: name(`e${i}`) });
    await fs.removeDirectory(root, ROOT_INODE, name(`e${i}`));
  }
  t.ok(cuts >= 18);
  const { entries } = await fs.readDirectory(root, ROOT_INODE, 0);
  t.equal(entries.length, 0);
});

test('after a restart the master knows what is open', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  const again = (await fs.openAt(root, ROOT_INODE, name('f'), { read: true, write: false })).file;
  await cluster.stopMaster();
  await cluster.startMaster();
  await fs.statFs();
  t.same(cluster.opens(), [{ readers: 2, writers: 1 }]);
  await file.write(0, name('x'));
  await file.close();
  await again.close();
  await fs.statFs();
  t.same(cluster.opens(), []);
});

test('a lost session: unpublished bytes are reported, open files go on under the new one', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  await file.write(0, pattern(1000));
  await file.flush();
  cluster.hooks.master = (method) => {
    if (method === 'publish') throw new CairnError('BUSY', 'planted');
  };
  await file.write(1000, pattern(1000));
  const flushed = file.flush();
  while (cluster.count('writeChunk') < 2) await fs.statFs();
  cluster.expireSessions();
  cluster.network.cut(cluster.masterAddress);
  await fs.statFs();
  cluster.hooks.master = () => undefined;
  await t.rejects(flushed, { code: 'EIO' });
  t.equal((await file.attributes()).size, 1000);
  await t.rejects(file.sync(), { code: 'EIO' });
  await file.write(1000, pattern(500));
  await file.close();
  t.equal((await content(fs, 'f')).length, 1500);
});

test('without a master an operation fails when its time is over, and works when it is back', async (t, cluster) => {
  const fs = await cluster.connect({ operationTimeoutMs: 300, cacheTtlMs: 0 });
  await cluster.stopMaster();
  await t.rejects(fs.getAttributes(ROOT_INODE), { code: 'TIMEOUT' });
  const waiting = fs.getAttributes(ROOT_INODE).catch((error: unknown) => error);
  await cluster.startMaster();
  const result = await waiting;
  t.notOk(result instanceof Error && !hasCode(result, 'TIMEOUT'));
  t.equal((await fs.getAttributes(ROOT_INODE)).inode, ROOT_INODE);
});

test('round trips: create, write, close of a small file costs four, closing what was read none', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  await file.write(0, pattern(1000));
  await file.close();
  await content(fs, 'f');
  const counted = ['create', 'leaseChunk', 'writeChunk', 'publish', 'open', 'readChunk', 'getChunks', 'sync', 'lookup'];
  t.same(
    counted.map((method) => cluster.count(method)),
    [1, 1, 1, 1, 1, 1, 0, 0, 0],
  );
});

test('many small writes are coalesced, and fsync of scattered ones sends many at once', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  for (let i = 0; i < 1024; i++) await file.write(i * 4096, pattern(4096, i));
  await file.sync();
  t.equal(cluster.count('writeChunk'), 4);
  t.equal(cluster.count('syncChunk'), 1);
  for (let i = 0; i < 200; i++) await file.write(((i * 37) % 1024) * 4096, pattern(4096, i));
  await file.sync();
  t.same(
    [cluster.count('writeChunk'), cluster.count('writeBatch')],
    [5, 4],
    'small ones go together, but for one at the end of a MiB',
  );
  let active = 0;
  let most = 0;
  cluster.hooks.write = async () => {
    most = Math.max(most, ++active);
    for (let i = 0; i < 20; i++) await Promise.resolve();
    active--;
  };
  for (let i = 0; i < 60; i++) await file.write(i * 65_536, pattern(20_000, i));
  await file.sync();
  t.ok(most >= 32, `${most} in flight`);
  delete cluster.hooks.write;
  const expected = Buffer.concat(Array.from({ length: 1024 }, (_, i) => pattern(4096, i)));
  for (let i = 0; i < 200; i++) pattern(4096, i).copy(expected, ((i * 37) % 1024) * 4096);
  for (let i = 0; i < 60; i++) pattern(20_000, i).copy(expected, i * 65_536);
  await file.close();
  t.ok((await content(fs, 'f')).equals(expected));
});

test('P7: of writes that go together, one that cannot be made takes no other with it', async (t, cluster) => {
  const fs = await cluster.connect({ operationTimeoutMs: 500 });
  const file = await create(fs, 'f');
  const old = pattern(100_000);
  await file.write(0, old);
  await file.sync();
  cluster.hooks.write = ({ offset }) => {
    if (offset === 40_000) throw new CairnError('ENOSPC', 'planted');
  };
  const expected = Buffer.from(old);
  for (const offset of [0, 20_000, 40_000, 60_000]) {
    await file.write(offset, pattern(1000, 3));
    if (offset !== 40_000) pattern(1000, 3).copy(expected, offset);
  }
  await t.rejects(file.sync(), { code: 'ENOSPC' });
  await file.sync();
  await file.close();
  t.ok((await content(fs, 'f')).equals(expected));
});

test('a batch without an answer goes again write by write, under another lease', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  await file.write(0, pattern(100_000));
  await file.sync();
  const leases = new Set<number>();
  let isBroken = false;
  cluster.hooks.written = ({ leaseId }, server) => {
    leases.add(leaseId);
    if (isBroken) return;
    isBroken = true;
    cluster.network.cut(server);
  };
  for (const offset of [0, 20_000, 40_000]) await file.write(offset, pattern(1000, 3));
  await file.sync();
  t.same([cluster.count('writeBatch'), cluster.count('writeChunk')], [1, 1 + 3]);
  t.equal(leases.size, 2);
  await file.close();
  t.ok((await content(fs, 'f')).subarray(40_000, 41_000).equals(pattern(1000, 3)));
});

test('a chunkserver of an older CairnFS gets the writes of a batch one by one', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  await file.write(0, pattern(100_000));
  await file.sync();
  const expected = pattern(100_000);
  const scatter = async (seed: number): Promise<void> => {
    for (const offset of [0, 20_000, 40_000]) {
      await file.write(offset, pattern(1000, seed));
      pattern(1000, seed).copy(expected, offset);
    }
    await file.sync();
  };
  let primary = '';
  cluster.hooks.write = (_request, server) => {
    primary = server;
  };
  await scatter(3);
  const counts = (): number[] =>
    ['writeBatch', 'writeBatch refused', 'forwardBatch refused', 'writeChunk'].map((method) => cluster.count(method));
  t.same(counts(), [1, 0, 0, 1]);
  cluster.hooks.isOld = (server) => server !== primary;
  await scatter(4);
  t.same(counts(), [2, 0, 1, 1], 'by the primary');
  cluster.hooks.isOld = () => true;
  await scatter(5);
  t.same(counts(), [2, 1, 1, 4], 'by the client');
  await scatter(6);
  t.same(counts(), [2, 1, 1, 7], 'which remembers it');
  await file.close();
  t.ok((await content(fs, 'f')).equals(expected));
  t.same(cluster.reports, []);
});

test('P1: an fsync of little is sent behind the bytes, and the master is told while the disks work', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  await file.write(0, pattern(1000));
  await file.sync();
  const counts = (): number[] => ['writeChunk', 'syncChunk', 'publish'].map((method) => cluster.count(method));
  t.same(counts(), [1, 1, 1]);
  const told = deferred<void>();
  cluster.hooks.sync = () => told.promise;
  cluster.hooks.master = (method) => {
    if (method === 'publish') told.resolve();
  };
  await file.write(0, pattern(1000, 2));
  await file.sync();
  t.same(counts(), [2, 2, 2]);
  delete cluster.hooks.master;

  cluster.hooks.write = () => new Promise((resolve) => setTimeout(resolve, 20));
  cluster.hooks.sync = () => undefined;
  await file.write(0, pattern(1000, 3));
  await file.sync();
  t.same(counts(), [3, 4, 3], 'a sync that came before the bytes does not count');
  delete cluster.hooks.write;
  let failures = 0;
  cluster.hooks.sync = () => {
    if (failures++ === 0) throw new CairnError('STALE_VERSION', 'planted');
  };
  await file.write(0, pattern(1000, 4));
  await file.sync();
  t.same(counts(), [4, 6, 4], 'nor does one that failed');
  await file.close();
  t.ok((await content(fs, 'f')).equals(pattern(1000, 4)));
});

test('what was read ahead is forgotten when an own write has reached the chunkservers', async (t, cluster) => {
  const fs = await cluster.connect();
  const file = await create(fs, 'f');
  await file.write(0, pattern(4 * MIB, 1));
  await file.flush();
  for (let at = 0; at < MIB; at += 256 * KIB) await file.read(at, 256 * KIB);
  const before = cluster.count('writeChunk');
  const bytes = pattern(MIB, 2);
  await file.write(2 * MIB, bytes); // a whole unit, sent at once and not published
  while (cluster.count('writeChunk') === before) await fs.statFs();
  await fs.statFs();
  for (let at = MIB; at < 2 * MIB; at += 256 * KIB) await file.read(at, 256 * KIB);
  t.ok((await file.read(2 * MIB, MIB)).equals(bytes));
  t.equal(cluster.count('publish'), 1);
  await file.close();
});

test('P7: a lost write that only a close told of is told by the next fsync of the file too, once', async (t, cluster) => {
  const fs = await cluster.connect();
  await (await create(fs, 'f')).close();
  await (await create(fs, 'g')).close();
  cluster.hooks.write = () => Promise.reject(new CairnError('ENOSPC', 'planted'));
  for (const text of ['f', 'g']) {
    const { file } = await fs.openAt(root, ROOT_INODE, name(text), READ_WRITE);
    await file.write(0, pattern(1000));
    await t.rejects(file.close(), { code: 'ENOSPC' });
  }
  delete cluster.hooks.write;
  const { file } = await fs.openAt(root, ROOT_INODE, name('f'), { read: true, write: false });
  await t.rejects(file.sync(), { code: 'ENOSPC' });
  await file.sync();
  await file.close();
  const other = (await fs.openAt(root, ROOT_INODE, name('g'), { ...READ_WRITE, truncate: true })).file;
  await other.sync();
  await other.close();
});

test('P7: a lost write is told by the next fsync, through whatever handle, also when a close told of it', async (t, cluster) => {
  const fs = await cluster.connect();
  const lose = async (file: OpenFile): Promise<void> => {
    cluster.hooks.write = () => Promise.reject(new CairnError('ENOSPC', 'planted'));
    await file.write(0, pattern(1000));
    // As the end of a child process, or of another descriptor: nobody looks at what it says.
    await t.rejects(file.flush(), { code: 'ENOSPC' });
    delete cluster.hooks.write;
  };
  const file = await create(fs, 'f');
  const open = async (flags = READ_WRITE): Promise<OpenFile> =>
    (await fs.openAt(root, ROOT_INODE, name('f'), flags)).file;
  const others = [await open(), await open({ read: true, write: false })];
  await lose(file);
  for (const one of [file, ...others]) {
    await t.rejects(one.sync(), { code: 'ENOSPC' }, 'who had it open');
    await one.sync();
  }
  const late = await open();
  await late.sync();
  await lose(file);
  await t.rejects((await open({ read: true, write: false })).sync(), { code: 'ENOSPC' }, 'nobody was told by then');
  await (await open()).sync();
  await t.rejects(file.sync(), { code: 'ENOSPC' }, 'it had it open');
  await lose(file);
  await t.rejects(file.write(0, name('again')), { code: 'ENOSPC' });
  await file.write(0, name('again'));
  await (await open()).sync();
});

test('P7: a size that could not be told with the last close is an error of the next fsync', async (t, cluster) => {
  const fs = await cluster.connect({ operationTimeoutMs: 300 });
  const file = await create(fs, 'f');
  await file.write(0, pattern(1000));
  cluster.hooks.master = (method) => {
    if (method === 'publish') throw new CairnError('UNAVAILABLE', 'planted');
  };
  await t.rejects(file.flush());
  await t.rejects(file.close());
  delete cluster.hooks.master;
  const again = (await fs.openAt(root, ROOT_INODE, name('f'), { read: true, write: false })).file;
  t.equal((await again.attributes()).size, 0);
  await t.rejects(again.sync(), { code: 'EIO' });
  await again.sync();
  await again.close();
});
