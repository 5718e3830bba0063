/** copy_file_range(2): what the chunkservers do by themselves, what is left to the client, and what happens when it fails. */
import t from 'tap';
import type { Test } from 'tap';
import { CairnError, errorNumber } from '../../../src/core/errors.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, KIB, MIB } from '../../../src/core/limits.js';
import { ROOT_CREDENTIALS as root, type FileSystem, type OpenFile } from '../../../src/filesystem/filesystem.js';
import { pattern } from '../../conformance/case.js';
import { hookedCluster, type HookedCluster } from '../../support/hooked-cluster.js';
import { MemoryNetwork } from '../../support/fakes/memory-network.js';
import { realCluster } from '../../support/real-cluster.js';

const READ_WRITE = { read: true, write: true };

async function create(fs: FileSystem, text: string, bytes?: Buffer): Promise<OpenFile> {
  const { file } = await fs.create(root, ROOT_INODE, Buffer.from(text), { mode: 0o644, flags: READ_WRITE });
  if (bytes !== undefined) {
    await file.write(0, bytes);
    await file.flush();
  }
  return file;
}

async function copyAll(source: OpenFile, target: OpenFile, length: number): Promise<void> {
  for (let at = 0; at < length;) {
    const count = await target.copyFrom(source, at, at, length - at);
    if (count === 0) throw new Error(`nothing copied at ${at}`);
    at += count;
  }
}

async function content(fs: FileSystem, text: string): Promise<Buffer> {
  const { file, attributes } = await fs.openAt(root, ROOT_INODE, Buffer.from(text), { read: true, write: false });
  const parts: Buffer[] = [];
  for (let at = 0; at < attributes.size; at += MIB) parts.push(Buffer.from(await file.read(at, MIB)));
  await file.close();
  return Buffer.concat(parts);
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

/** Chunk requests of the client since the last look. */
function counter(cluster: HookedCluster): () => string {
  const seen = new Map<string, number>();
  return () => {
    const now = ['readChunk', 'writeChunk', 'copyRange'].map((method) => {
      const count = cluster.count(method);
      const since = count - (seen.get(method) ?? 0);
      seen.set(method, count);
      return `${method} ${since}`;
    });
    return now.join(', ');
  };
}

test('no byte goes through the client, unless it is few', async (t, cluster) => {
  const fs = await cluster.connect();
  const counted = counter(cluster);
  const bytes = pattern(20 * MIB + 5);
  const [source, target] = [await create(fs, 'from', bytes), await create(fs, 'to')];
  counted();
  await copyAll(source, target, bytes.length);
  t.equal(counted(), 'readChunk 0, writeChunk 0, copyRange 2');
  await target.flush();
  t.equal(counted(), 'readChunk 0, writeChunk 0, copyRange 0');
  t.ok((await content(await cluster.connect(), 'to')).equals(bytes));
  counted();
  t.equal(await target.copyFrom(source, 0, 100, 10 * KIB), 10 * KIB);
  await target.flush();
  t.equal(counted(), 'readChunk 1, writeChunk 1, copyRange 0');
  for (const file of [source, target]) await file.close();
});

test('what the servers cannot read, or do not know, the client copies', async (t, cluster) => {
  const fs = await cluster.connect();
  const counted = counter(cluster);
  const bytes = pattern(3 * MIB);
  const [source, target] = [await create(fs, 'from', bytes), await create(fs, 'to')];
  const code = errorNumber('STALE_VERSION');
  let stale = 1;
  cluster.hooks.copy = ({ length }) => {
    if (stale-- > 0) return { copied: MIB, sourceError: code };
    return stale === -1 ? { copied: 0, sourceError: code } : { copied: length, sourceError: 0 };
  };
  counted();
  await copyAll(source, target, bytes.length);
  await target.flush();
  t.match(counted(), /^readChunk [12], writeChunk 1, copyRange 3$/, 'read ahead at most');
  t.ok((await content(fs, 'to')).equals(bytes));
  await target.truncate(0);
  cluster.hooks.copy = () => {
    throw new CairnError('EOPNOTSUPP', 'planted: an older server');
  };
  await copyAll(source, target, bytes.length);
  await target.flush();
  t.ok((await content(fs, 'to')).equals(bytes));
  for (const file of [source, target]) await file.close();
});

test('a copy in doubt is repeated under another lease; writes to the range wait for its end', async (t, cluster) => {
  const fs = await cluster.connect();
  const bytes = pattern(2 * MIB);
  const [source, target] = [await create(fs, 'from', bytes), await create(fs, 'to', pattern(2 * MIB, 2))];
  for (const code of ['STALE_VERSION', 'NOT_PRIMARY', 'UNAVAILABLE', 'BUSY', 'cut'] as const) {
    const leases: number[] = [];
    let written: Promise<unknown> | undefined;
    let during = false;
    cluster.hooks.write = () => {
      if (during) t.fail('a write overtook the copy');
    };
    cluster.hooks.copy = async ({ leaseId }, server) => {
      leases.push(leaseId);
      during = true;
      written ??= target.write(MIB, Buffer.from('after')).then(() => target.flush());
      await new Promise((resolve) => setTimeout(resolve, 5));
      during = leases.length < 3;
      if (!during) return;
      if (code === 'cut') cluster.network.cut(server);
      else throw new CairnError(code, 'planted');
    };
    t.equal(await target.copyFrom(source, 0, 0, bytes.length), bytes.length, code);
    await written;
    t.equal(leases.length, 3);
    if (code === 'cut') t.equal(new Set(leases).size, 3, 'in doubt');
    await target.flush();
    const expected = Buffer.from(bytes);
    expected.write('after', MIB);
    t.ok((await content(await cluster.connect(), 'to')).equals(expected), `${code}: in order`);
  }
  cluster.hooks.write = cluster.hooks.copy = () => undefined;
  for (const file of [source, target]) await file.close();
});

test('P7: a copy that fails is told to its caller, after what was copied; nothing else is lost', async (t, cluster) => {
  const fs = await cluster.connect();
  const bytes = pattern(40 * MIB);
  const [source, target] = [await create(fs, 'from', bytes), await create(fs, 'to')];
  cluster.hooks.copy = ({ offset }) => {
    if (offset >= 16 * MIB) throw new CairnError('ENOSPC', 'planted');
  };
  t.equal(await target.copyFrom(source, 0, 0, bytes.length), 16 * MIB);
  await t.rejects(target.copyFrom(source, 16 * MIB, 16 * MIB, 24 * MIB), { code: 'ENOSPC' });
  await target.flush();
  t.equal((await target.attributes()).size, 16 * MIB, 'no more than was copied');
  t.equal((await fs.lookup(root, ROOT_INODE, Buffer.from('to'))).size, 16 * MIB);
  cluster.hooks.copy = () => undefined;
  t.equal(await target.copyFrom(source, 16 * MIB, 16 * MIB, 24 * MIB), 24 * MIB);
  for (const file of [source, target]) await file.close();
  t.ok((await content(fs, 'to')).equals(bytes));
});

test('a truncate waits for the copy before it', async (t, cluster) => {
  const fs = await cluster.connect();
  const [source, target] = [await create(fs, 'from', pattern(8 * MIB)), await create(fs, 'to', pattern(MIB, 2))];
  let truncated: Promise<void> | undefined;
  cluster.hooks.copy = async () => {
    truncated ??= target.truncate(5);
    await new Promise((resolve) => setTimeout(resolve, 20));
  };
  t.equal(await target.copyFrom(source, 0, 0, 8 * MIB), 8 * MIB);
  await truncated;
  t.equal((await target.attributes()).size, 5);
  t.ok((await content(await cluster.connect(), 'to')).equals(pattern(8 * MIB).subarray(0, 5)));
  for (const file of [source, target]) await file.close();
});

t.test('holes stay holes, and chunks under them go', async (t) => {
  const cluster = await realCluster(new MemoryNetwork(), { chunkservers: 3, replicas: 2, host: 'memory' });
  const fs = await cluster.connect();
  const [source, target] = [await create(fs, 'from', pattern(300 * KIB)), await create(fs, 'to')];
  const size = 3 * CHUNK_SIZE_BYTES + 10 * MIB;
  await source.write(2 * CHUNK_SIZE_BYTES + 5 * MIB, pattern(MIB, 2));
  await source.truncate(size);
  for (let index = 0; index < 4; index++) await target.write(index * CHUNK_SIZE_BYTES + 7 * MIB, pattern(MIB, 3));
  await copyAll(source, target, size);
  await target.flush();
  t.equal(await target.seek(CHUNK_SIZE_BYTES, 'data'), 2 * CHUNK_SIZE_BYTES + 5 * MIB);
  t.equal(await target.seek(0, 'hole'), await source.seek(0, 'hole'));
  const { allocatedBytes } = await fs.getAttributes(target.inode);
  t.equal(allocatedBytes, 3 * CHUNK_SIZE_BYTES, 'the one in the hole is gone');
  for (const at of [0, 7 * MIB, CHUNK_SIZE_BYTES + 7 * MIB, 2 * CHUNK_SIZE_BYTES + 5 * MIB, size - 3 * MIB]) {
    t.ok((await target.read(at, MIB)).equals(await source.read(at, MIB)), `at ${at}`);
  }
  for (const file of [source, target]) await file.close();
  await cluster.stop();
});
