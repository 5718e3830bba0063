import t from 'tap';
import type { ClusterDescription } from '../../src/cli/machine/cluster-directory.js';
import { nothingToDo, planUp } from '../../src/cli/machine/up-plan.js';
import type { Observed, Wanted } from '../../src/cli/machine/up-plan.js';

const wanted: Wanted = { directory: '/data', mountpoint: '/mnt' };
const nothing: Observed = {
  before: undefined,
  foreignFiles: false,
  masterRuns: false,
  chunkserversRun: [],
  mountRuns: false,
  mounted: 'nothing',
};
const before: ClusterDescription = {
  master: '127.0.0.1:7000',
  replicas: 2,
  chunkservers: ['127.0.0.1:7001', '127.0.0.1:7002', '127.0.0.1:7003'],
  mountpoint: '/mnt',
};
const stopped: Observed = { ...nothing, before, chunkserversRun: [false, false, false] };
const running: Observed = {
  ...stopped,
  masterRuns: true,
  chunkserversRun: [true, true, true],
  mountRuns: true,
  mounted: 'this cluster',
  mountHealth: 'serving',
};

t.test('a new cluster: the defaults, everything is started', (t) => {
  const plan = planUp(wanted, nothing);
  t.same(plan.startChunkservers, [1, 2, 3]);
  t.ok(plan.startMaster && plan.mount);
  t.match(plan.description, { master: '127.0.0.1:9420', replicas: 2, mountpoint: '/mnt' });
  t.equal(planUp({ ...wanted, port: 99 }, nothing).description.master, '127.0.0.1:99');
  t.equal(planUp({ ...wanted, chunkservers: 1 }, nothing).description.replicas, 1, 'one chunkserver cannot keep two');
  t.equal(planUp({ ...wanted, replicas: 5 }, nothing).description.chunkservers.length, 5);
  t.end();
});

t.test('after down: everything as before, ports included', (t) => {
  const plan = planUp(wanted, stopped);
  t.same(plan.description, before);
  t.same(plan.startChunkservers, [1, 2, 3]);
  t.ok(plan.startMaster && plan.mount);
  const elsewhere = planUp({ ...wanted, mountpoint: '/other' }, stopped);
  t.equal(elsewhere.description.mountpoint, '/other', 'a stopped cluster may be mounted elsewhere');
  t.end();
});

t.test('already up: nothing to do; half up: what is missing', (t) => {
  t.ok(nothingToDo(planUp(wanted, running)));
  const half = planUp(wanted, { ...running, chunkserversRun: [true, false, true] });
  t.same([half.startMaster, half.startChunkservers, half.mount], [false, [2], false]);
  const crashed = planUp(wanted, { ...running, mountRuns: false, mounted: 'a dead mount' });
  t.same([crashed.startMaster, crashed.startChunkservers, crashed.mount], [false, [], true]);
  const more = planUp({ ...wanted, chunkservers: 5 }, running);
  t.same(more.startChunkservers, [4, 5]);
  t.end();
});

t.test('refusals name the remedy', (t) => {
  const refuses = (asked: Partial<Wanted>, observed: Observed, code: string, message: RegExp): void => {
    t.throws(() => planUp({ ...wanted, ...asked }, observed), { code, message });
  };
  refuses({ replicas: 3, chunkservers: 2 }, nothing, 'EINVAL', /--chunkservers 3/);
  refuses({ chunkservers: 2 }, stopped, 'EINVAL', /--chunkservers 3/);
  refuses({ replicas: 3 }, running, 'EBUSY', /cairn down \/mnt/);
  refuses({ port: 1 }, running, 'EBUSY', /cairn down \/mnt/);
  refuses({ mountpoint: '/other' }, running, 'EBUSY', /cairn down \/mnt/);
  refuses({}, { ...nothing, foreignFiles: true }, 'ENOTEMPTY', /--data/);
  refuses({}, { ...nothing, mounted: 'another file system' }, 'EBUSY', /unmount/);
  refuses({}, { ...running, mountHealth: 'silent' }, 'ETIMEDOUT', /mount\/log/);
  t.end();
});
