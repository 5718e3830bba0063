/** cp(1) within a mount, which copies by copy_file_range(2): the bytes stay among the chunkservers, whoever dies. */
import { open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import t from 'tap';
import { MIB } from '../../src/core/limits.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { content } from '../support/files.js';
import { testSeed } from '../support/seed.js';
import { shell } from '../support/shell.js';

const skip = process.getuid?.() !== 0 && 'only the kernel driver knows copy_file_range, and only root has it';
const SIZE = 200 * MIB + 4321;

/** Bytes that the mount's process has read and written since it started: its sockets and the kernel's requests. */
async function bytesThrough(cluster: ProcessCluster): Promise<number> {
  const pid = (await cluster.pids()).get('mount-0') ?? 0;
  const counters = await readFile(`/proc/${pid}/io`, 'utf8');
  return [...counters.matchAll(/^[rw]char: (\d+)/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
}

async function makeFile(path: string, seed: number): Promise<void> {
  const file = await open(path, 'w');
  for (let at = 0; at < SIZE; at += 10 * MIB) await file.write(content(seed + at, Math.min(10 * MIB, SIZE - at)));
  await file.sync();
  await file.close();
}

t.test('cp within a mount', { skip }, async (t) => {
  t.setTimeout(200_000);
  const seed = testSeed(t);
  const cluster = await ProcessCluster.start(t, { driver: 'kernel', limitMs: 190_000 });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  await makeFile(join(a, 'from'), seed);
  const version = /(\d+)\.\d+/.exec(await shell('cp --version | head -1'))?.[1];

  await t.test('no data goes through the client', async (t) => {
    if (Number(version) < 9) t.comment('this cp does not copy by copy_file_range');
    const before = await bytesThrough(cluster);
    await shell('cp from to', { directory: a });
    const through = (await bytesThrough(cluster)) - before;
    if (Number(version) >= 9) t.ok(through < MIB, `${through} bytes for ${SIZE}`);
    await shell('cmp "$1/from" to', { directory: b, args: [a] });
  });

  await t.test('P4, P11: kill -9 of each chunkserver in the middle', async (t) => {
    let cutShort = 0;
    for (const index of cluster.chunkserverIndexes) {
      let isDone = false;
      const copying = shell('cp from copy; sync copy', { directory: a }).then(() => (isDone = true));
      // What the copy begins with is being written by then.
      while ((await stat(join(a, 'copy')).catch(() => ({ size: 0 }))).size < 16 * MIB && !isDone) await pause(5);
      if (!isDone) cutShort++;
      await cluster.killChunkserver(index);
      await copying;
      await shell('cmp "$1/from" copy', { directory: b, args: [a] });
      await cluster.startChunkserver(index);
      await cluster.waitUntilWhole();
      await shell('rm copy', { directory: a });
    }
    t.ok(cutShort > 0, `${cutShort} killed while it copied`);
  });

  await t.test('sparse files are archived and copied by their data', async () => {
    const script = `
      truncate -s 200M sparse
      for at in 0 30 500 1000 2900 3100; do echo data at $at | dd of=sparse bs=64K seek=$at conv=notrunc status=none; done
      tar -Scf sparse.tar sparse
      mkdir -p out; tar -xf sparse.tar -C out
      cmp sparse out/sparse
      stat -c %s sparse.tar`;
    const archived = Number(await shell(script, { directory: a }));
    t.ok(archived < MIB, `an archive of ${archived} bytes`);
  });
});
