/** fio writes blocks that say where they belong, in every way that Linux has, and verifies them: itself, and from another mount. */
import { join } from 'node:path';
import t from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { dropCaches, shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

const TIMEOUT_MS = 120_000;

/** Name, and how it writes. Sizes make each take some seconds at most. */
const JOBS = {
  'psync-sequential': '--ioengine=psync --rw=write --bs=64k --size=48m',
  'psync-random': '--ioengine=psync --rw=randwrite --bs=4k --size=8m',
  'psync-unaligned': '--ioengine=psync --rw=randwrite --bsrange=512-64k --bs_unaligned=1 --size=12m',
  'psync-synchronous': '--ioengine=psync --rw=randwrite --bs=16k --size=3m --sync=1',
  'psync-fsync': '--ioengine=psync --rw=randwrite --bs=16k --size=6m --fsync=16',
  'mmap-sequential': '--ioengine=mmap --rw=write --bs=64k --size=32m',
  'mmap-random': '--ioengine=mmap --rw=randwrite --bs=4k --size=4m --fsync=200',
  'libaio-buffered': '--ioengine=libaio --iodepth=16 --rw=randwrite --bs=8k --size=8m',
  'libaio-direct-sequential': '--ioengine=libaio --direct=1 --iodepth=16 --rw=write --bs=128k --size=48m',
  'libaio-direct-random': '--ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bs=4k --size=6m',
  'libaio-direct-sector': '--ioengine=libaio --direct=1 --iodepth=8 --rw=randwrite --bs=512 --size=512k',
  'psync-direct': '--ioengine=psync --direct=1 --rw=randwrite --bs=32k --size=8m',
  'several-jobs': '--ioengine=psync --rw=randwrite --bs=16k --size=4m --numjobs=4',
  'one-file-four-jobs':
    '--ioengine=psync --rw=randwrite --bs=16k --size=3m --numjobs=4 --filename=shared --offset_increment=3m',
} as const;

t.test('fio --verify', { skip: needsKernelDriver('fio') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { limitMs: 280_000, driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const fio = (directory: string, name: string, how: string): Promise<string> =>
    shell(
      `fio --name="$1" --directory=. --fallocate=none --verify=crc32c --verify_fatal=1 --verify_state_save=0 --randseed=7 \\
        --group_reporting --minimal $2 > ../fio-output || { cat ../fio-output; exit 1; }`,
      { directory, args: [name, how], timeoutMs: TIMEOUT_MS },
    );
  await shell('mkdir files', { directory: a });

  for (const [name, how] of Object.entries(JOBS)) {
    await t.test(name, async (t) => {
      await fio(join(a, 'files'), name, `${how} --do_verify=1`);
      t.pass('written and verified');
      await fio(join(b, 'files'), name, `${how} --verify_only`);
      t.pass('P2: verified by another mount');
    });
  }

  await t.test('all of it once more, with nothing in the caches, by direct and by mapped reads', async (t) => {
    await cluster.unmount(1);
    await cluster.mount(1);
    await dropCaches();
    for (const [name, how] of Object.entries(JOBS)) {
      const engine = name.startsWith('libaio') ? '--ioengine=mmap --direct=0' : '--ioengine=libaio --iodepth=4';
      // The order of blocks is the engine's no matter: the seed makes it.
      await fio(join(b, 'files'), name, `${how} ${engine} --verify_only`);
    }
    t.pass('verified');
  });

  await t.test('a verification that cannot fail proves nothing: one byte is changed', async (t) => {
    const file = 'psync-sequential.0.0';
    await shell('printf x | dd of="$1" bs=1 seek=5000001 conv=notrunc status=none', {
      directory: join(b, 'files'),
      args: [file],
    });
    await t.rejects(fio(join(a, 'files'), 'psync-sequential', `${JOBS['psync-sequential']} --verify_only`), /verify/);
  });
});
