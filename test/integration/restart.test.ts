/** Everything stops and starts again: files stay, with and without warning. */
import t from 'tap';
import { ROOT_INODE } from '../../src/core/ids.js';
import { CHUNK_SIZE_BYTES, MIB } from '../../src/core/limits.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { content, list, mkdir, readFile, stat, writeFile } from '../support/files.js';

for (const how of ['stop', 'kill'] as const) {
  t.test(`P1, P10: every file is back after ${how} and start of everything`, async (t) => {
    const cluster = await ProcessCluster.start(t);
    const fs = await cluster.client();
    const sizes = [0, 1, 4096, 65_536, 65_537, 3 * MIB + 5, CHUNK_SIZE_BYTES + 100_000];
    await mkdir(fs, 'deep');
    await mkdir(fs, 'deep/er');
    for (const size of sizes) await writeFile(fs, `deep/er/${size}`, content(size, size), { sync: true });
    for (let i = 0; i < 1200; i++) await mkdir(fs, `directory-${i}`);
    await fs.close();

    await cluster.endAll(how);
    await cluster.startAll();

    const again = await cluster.client();
    t.equal((await list(again, ROOT_INODE)).length, 1201);
    for (const size of sizes) {
      t.equal((await stat(again, `deep/er/${size}`)).size, size);
      t.ok((await readFile(again, `deep/er/${size}`)).equals(content(size, size)), `${size} bytes`);
    }
    await writeFile(again, 'deep/er/new', content(1, MIB));
    t.ok((await readFile(again, 'deep/er/new')).equals(content(1, MIB)), 'writing goes on');
  });
}
