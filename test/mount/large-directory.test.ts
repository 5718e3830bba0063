/** A directory with many entries: made, listed with attributes, and removed. */
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { noMounts, shell } from '../support/shell.js';

/** Enough for many pages of a listing; the full hundred thousand is a matter of minutes, not of other code. */
const ENTRIES = 3000;

t.test('P8: a large directory is made, listed with ls -l, and removed with rm -r', { skip: noMounts }, async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 2 });
  const path = await cluster.mount();
  await shell('mkdir large; cd large; seq -f entry-%g "$1" | xargs touch', {
    directory: path,
    args: [String(ENTRIES)],
    timeoutMs: 60_000,
  });
  const listed = (await shell('ls -l large', { directory: path })).trim().split('\n').slice(1);
  t.equal(listed.length, ENTRIES);
  t.equal(new Set(listed.map((line) => line.split(' ').at(-1))).size, ENTRIES, 'each name once');
  await shell('rm -r large; [ -z "$(ls -A)" ]', { directory: path });
});
