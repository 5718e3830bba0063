/** A chunkserver is killed with -9 during reads and writes: P11 (work goes on), P4 and P9 (a stale replica is never served). */
import t from 'tap';
import { setTimeout as pause } from 'node:timers/promises';
import { CHUNKSERVER_DEAD_MS, MIB } from '../../src/core/limits.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { eventually } from '../support/eventually.js';
import { content, readFile, stat, writeFile } from '../support/files.js';
import { testSeed } from '../support/seed.js';
import type { FileSystem } from '../../src/filesystem/filesystem.js';

/** The indexes of the servers that hold the first chunk of a file at its current version. */
async function holders(cluster: ProcessCluster, fs: FileSystem, path: string): Promise<number[]> {
  const [chunk] = await fs.placement((await stat(fs, path)).inode, 0);
  const addresses = new Set(chunk?.replicas.map((replica) => replica.address));
  return cluster.chunkserverIndexes.filter((index) => addresses.has(cluster.addressOf(index)));
}

// A killed chunkserver is waited for until it has fenced itself, 10 s each time.
t.setTimeout(120_000);

t.test(
  'P11: each chunkserver in turn is killed during reads and writes, and no application sees an error',
  async (t) => {
    const seed = testSeed(t);
    const cluster = await ProcessCluster.start(t);
    const writer = await cluster.client();
    const reader = await cluster.client();
    const steady = content(seed, 8 * MIB);
    await writeFile(writer, 'steady', steady);

    const written = new Map<string, number>();
    let stopped = false;
    let slowestMs = 0;
    const timed = async (work: Promise<void>): Promise<void> => {
      const started = performance.now();
      await work;
      slowestMs = Math.max(slowestMs, performance.now() - started);
    };
    const writing = (async () => {
      for (let i = 0; !stopped; i++) {
        await timed(writeFile(writer, `file-${i}`, content(seed + i, MIB + i * 17), { sync: i % 3 === 0 }));
        written.set(`file-${i}`, seed + i);
      }
    })();
    let reads = 0;
    const reading = (async () => {
      while (!stopped) {
        await timed(
          readFile(reader, 'steady').then((bytes) => {
            if (!bytes.equals(steady)) throw new Error('P3: other bytes than were written');
          }),
        );
        reads++;
        await pause(20);
      }
    })();
    const work = Promise.all([writing, reading]);
    work.catch(() => undefined); // reported by the await below

    for (const index of cluster.chunkserverIndexes) {
      await pause(500);
      await cluster.killChunkserver(index);
      await pause(1500);
      await cluster.startChunkserver(index);
      await cluster.waitUntilWhole();
    }
    stopped = true;
    await work;
    t.comment(`${written.size} files written, ${reads} reads, slowest ${Math.round(slowestMs)} ms`);
    t.ok(written.size > 3 && reads > 3);
    t.ok(slowestMs < CHUNKSERVER_DEAD_MS + 5000, 'nothing waits longer than the failure time-out');

    const fresh = await cluster.client();
    let index = 0;
    for (const [name, fileSeed] of written) {
      if (!(await readFile(fresh, name)).equals(content(fileSeed, MIB + index++ * 17))) t.fail(`${name} differs`);
    }
    t.pass(`${index} files compared`);
  },
);

t.test('P9: a replica that missed a write is never served, also when it is the only one left', async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 2 });
  const fs = await cluster.client();
  const old = content(1, 2 * MIB);
  const current = content(2, 2 * MIB);
  await writeFile(fs, 'file', old, { sync: true });
  const [first, second] = await holders(cluster, fs, 'file');
  if (first === undefined || second === undefined) throw new Error('the file must have two replicas');

  // The second writes alone, over the same bytes: no truncation, so the same chunk.
  await cluster.killChunkserver(first);
  const { file } = await fs.open({ uid: 0, gid: 0, groups: [] }, (await stat(fs, 'file')).inode, {
    read: true,
    write: true,
  });
  for (let at = 0; at < current.length; at += MIB) await file.write(at, current.subarray(at, at + MIB));
  await file.sync();
  await file.close();
  t.same(await holders(cluster, fs, 'file'), [second], 'the master knows who has the current version');

  // The stale one comes back alone. Whoever asks gets no byte of it.
  await cluster.killChunkserver(second);
  await cluster.startChunkserver(first);
  await cluster.waitForChunkservers(1);
  const lonely = await cluster.client();
  const outcome = await Promise.race([
    readFile(lonely, 'file').then(
      (bytes) => (bytes.equals(current) ? 'current' : 'stale'),
      () => 'error',
    ),
    pause(5000, 'waits', { ref: false }),
  ]);
  t.match(outcome, /^(error|waits)$/, 'no bytes are better than old ones');

  await cluster.startChunkserver(second);
  await eventually('the current bytes are read again', async () =>
    (await readFile(await cluster.client(), 'file')).equals(current),
  );
});
