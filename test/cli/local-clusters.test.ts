import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { ClusterDirectory } from '../../src/cli/machine/cluster-directory.js';
import {
  forgetCluster,
  LOCAL_CLUSTERS_FILE,
  localClusters,
  recordCluster,
} from '../../src/cli/machine/local-clusters.js';
import { MAX_LOCAL_CLUSTERS } from '../../src/core/limits.js';
import { runCairn } from '../support/process-cluster.js';

async function setUp(): Promise<{ place: string; cluster(name: string): Promise<ClusterDirectory> }> {
  const place = await mkdtemp(join(tmpdir(), 'cairn-local-'));
  process.env['CAIRN_DATA'] = join(place, 'default');
  const cluster = async (name: string): Promise<ClusterDirectory> => {
    const directory = new ClusterDirectory(join(place, name));
    await directory.write({ master: '127.0.0.1:1', replicas: 1, chunkservers: [], mountpoint: `/mnt/${name}` });
    await recordCluster(directory);
    return directory;
  };
  return { place, cluster };
}

const names = async (): Promise<string[]> =>
  (await localClusters()).map(({ description }) => description.mountpoint.slice('/mnt/'.length));

t.test('the one that was started last comes first; what is gone is passed over; their number is bounded', async (t) => {
  const { place, cluster } = await setUp();
  t.same(await names(), []);
  const first = await cluster('first');
  const second = await cluster('second');
  t.same(await names(), ['second', 'first']);
  await recordCluster(first);
  t.same(await names(), ['first', 'second']);
  await rm(first.path, { recursive: true });
  t.same(await names(), ['second']);
  await forgetCluster(second);
  t.same(await names(), []);
  for (let i = 0; i < MAX_LOCAL_CLUSTERS + 3; i++) await cluster(String(i));
  t.equal((await names()).length, MAX_LOCAL_CLUSTERS);
  await writeFile(join(place, 'default', LOCAL_CLUSTERS_FILE), '{"clusters": [1, {}, "/nonexistent"]}');
  t.same(await names(), []);
  await writeFile(join(place, 'default', LOCAL_CLUSTERS_FILE), 'spoilt');
  t.same(await names(), [], 'a spoilt file is no reason to fail');
});

t.test('commands say which cluster they take, and what to do when none runs', async (t) => {
  const { place, cluster } = await setUp();
  const none = await runCairn(['status']);
  t.equal(none.code, 1);
  t.match(none.stderr, /You started none on this machine: start one with .*cairn up MOUNTPOINT/);
  await cluster('with space');
  const stopped = await runCairn(['ls']);
  t.match(
    stopped.stderr,
    new RegExp(`does not run: start it with .*cairn up '/mnt/with space' --data '${place}/with space'`),
  );
  await cluster('second');
  const both = await runCairn(['status']);
  t.match(both.stderr, new RegExp(`^taking the cluster in ${place}/second, .* --data: ${place}/with space\n`));
  const told = await runCairn(['status', '--data', join(place, 'with space')]);
  t.match(told.stderr, /^cairn status: the cluster in .*with space does not run/);
  const missing = await runCairn(['status', '--data', join(place, 'missing')]);
  t.match(missing.stderr, /no cluster was started in .*missing: start one with/);
});
