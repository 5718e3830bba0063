/** A file through descriptors and through shared mappings at once, at random, beside a copy in memory: mapped-file.c. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { testSeed } from '../support/seed.js';
import { shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const SOURCE = fileURLToPath(new URL('../../../test/programs/mapped-file.c', import.meta.url));
const RUNS = 3;
const OPERATIONS = 2000;

t.test('random operations on a mapped file', { skip: needsKernelDriver('gcc') }, async (t) => {
  const local = await mkdtemp(join(tmpdir(), 'cairn-mapped-'));
  t.teardown(() => rm(local, { recursive: true, force: true }));
  const program = join(local, 'mapped-file');
  await shell('gcc -O1 -o "$1" "$2"', { args: [program, SOURCE] });
  const seed = testSeed(t);
  const run = (directory: string, number: number): Promise<string> =>
    shell('"$1" "$2" "$3" "$4"', {
      args: [program, join(directory, `file-${number}`), String(seed + number), String(OPERATIONS)],
      timeoutMs: 60_000,
    });

  await t.test('on a local disk, which proves the program right', async (t) => {
    for (let i = 0; i < RUNS; i++) t.match(await run(local, i), `${OPERATIONS} operations`);
  });

  await t.test('on a mount', async (t) => {
    const cluster = await ProcessCluster.start(t, { driver: 'kernel', mount: true });
    for (let i = 0; i < RUNS; i++) t.match(await run(cluster.mountpoint, i), `${OPERATIONS} operations`);
  });
});
