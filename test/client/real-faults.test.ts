/** P11: with one of three chunkservers gone, writes and reads go on without an error to the program. */
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { KIB, MIB } from '../../src/core/limits.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import { pattern } from '../conformance/case.js';
import { MemoryNetwork } from '../support/fakes/memory-network.js';
import { realCluster } from '../support/real-cluster.js';

t.test('P11: each chunkserver in turn leaves during writes and reads', async (t) => {
  const cluster = await realCluster(new MemoryNetwork(), { chunkservers: 3, replicas: 2, host: 'memory' });
  try {
    const fs = await cluster.connect();
    const flags = { read: true, write: true };
    const files = [];
    for (let i = 0; i < 4; i++) {
      const name = Buffer.from(`f${i}`);
      files.push((await fs.create(root, ROOT_INODE, name, { mode: 0o644, flags })).file);
    }
    const bytes = pattern(6 * MIB);
    const gone = cluster.chunkservers[0];
    for (let at = 0; at < bytes.length; at += 128 * KIB) {
      await Promise.all(files.map((file) => file.write(at, bytes.subarray(at, at + 128 * KIB))));
      if (at === 2 * MIB) await gone?.stop();
    }
    for (const file of files) await file.sync();
    const begin = performance.now();
    for (const file of files) {
      const read: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += 128 * KIB) read.push(await file.read(at, 128 * KIB));
      t.ok(Buffer.concat(read).equals(bytes));
      await file.close();
    }
    t.ok(performance.now() - begin < 10_000);
  } finally {
    await cluster.stop();
  }
});
