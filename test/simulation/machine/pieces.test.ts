/** The simulator's own parts: clock, network under real RPC peers, disk under power loss, guards. */
import t from 'tap';
import { hasCode } from '../../../src/core/errors.js';
import { SeededRandom } from '../../../src/core/random.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { connectPeer, servePeers } from '../../../src/protocol/endpoint.js';
import { CHUNKSERVER_METHODS } from '../../../src/protocol/methods.js';
import type { Handlers } from '../../../src/protocol/rpc.js';
import { Guards, microtasksDrained } from './guards.js';
import { MachineTime } from './machine-time.js';
import { runUntilSettled } from './run-until.js';
import { SimulatedClock } from './simulated-clock.js';
import { SimulatedDisk } from './simulated-disk.js';
import { SimulatedNetwork } from './simulated-network.js';
import type { Incarnation } from './simulated-network.js';
import { Trace } from '../world/trace.js';

function parts(seed: number) {
  const clock = new SimulatedClock();
  const random = new SeededRandom(seed);
  const trace = new Trace(() => clock.nowUs);
  return { clock, random, trace, network: new SimulatedNetwork(clock, random, trace) };
}

t.test('clock: events in order of time, ties in order of scheduling, cancelled ones not at all', async (t) => {
  const clock = new SimulatedClock();
  const random = new SeededRandom(7);
  const seen: [number, number][] = [];
  for (let i = 0; i < 500; i++) {
    const timer = clock.schedule(random.below(50), () => seen.push([clock.nowUs, i]));
    if (i % 5 === 0) timer.cancel();
  }
  while (clock.step()) continue;
  t.equal(seen.length, 400);
  const sorted = [...seen].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  t.same(seen, sorted);
});

const handlers = {
  readChunk: (request: { length: number }) => ({ reply: { checksums: [] }, payload: Buffer.alloc(request.length, 7) }),
} as unknown as Handlers<typeof CHUNKSERVER_METHODS>;

async function peers(seed: number) {
  const { clock, random, trace, network } = parts(seed);
  const server: Incarnation = { host: 'server', time: new MachineTime(clock), isAlive: true };
  const client: Incarnation = { host: 'client', time: new MachineTime(clock), isAlive: true };
  const options = (owner: Incarnation) => ({
    network: network.forProcess(owner),
    clock: clock.forProcess({
      isAlive: () => owner.isAlive,
      time: owner.time,
      skewUs: () => 0,
      onFire: () => undefined,
    }),
    random,
    logger: silentLogger,
    secret: Buffer.alloc(32, 1),
  });
  const connect = async () => {
    await servePeers({ ...options(server), role: 'chunkserver' }, 'server:7000', {
      table: CHUNKSERVER_METHODS,
      handlers,
      accept: ['client'],
      clusterId: () => 'c',
    });
    return connectPeer({ ...options(client), role: 'client' }, 'server:7000', { role: 'chunkserver' });
  };
  const peer = await runUntilSettled(clock, connect());
  const read = (length: number) =>
    peer.call(CHUNKSERVER_METHODS.readChunk, { handle: 1, version: 1, offset: 0, length }, { timeoutMs: 3000 });
  return { clock, trace, network, server, client, peer, read };
}

t.test('network: calls over it, the same trace for the same seed', async (t) => {
  const digests: string[] = [];
  for (const seed of [1, 1, 2]) {
    const { clock, trace, read, peer } = await peers(seed);
    const results = await runUntilSettled(clock, Promise.all([1, 1000, 1_000_000].map((length) => read(length))));
    t.same(
      results.map((each) => each.payload.length),
      [1, 1000, 1_000_000],
    );
    peer.close('done');
    await runUntilSettled(clock, peer.closed);
    digests.push(trace.digest());
  }
  t.equal(digests[0], digests[1]);
  t.not(digests[0], digests[2]);
});

t.test('network: a partition holds messages back, healing lets them go, a kill ends the connection', async (t) => {
  const { clock, network, read, peer, server } = await peers(3);
  network.partition('client', 'server');
  const slow = read(10);
  clock.schedule(1_000_000, () => network.heal('client', 'server'));
  t.equal((await runUntilSettled(clock, slow)).payload.length, 10);
  t.ok(clock.nowUs >= 1_000_000);
  network.partition('server', 'client', true);
  await t.rejects(runUntilSettled(clock, read(10)), { code: 'TIMEOUT' });
  network.heal('client', 'server');
  server.isAlive = false;
  network.processKilled(server);
  await runUntilSettled(clock, peer.closed);
  await t.rejects(runUntilSettled(clock, read(1)), { code: 'DISCONNECTED' });
});

t.test('network: a break loses what is under way; a dead machine is noticed by silence', async (t) => {
  const broken = await peers(4);
  const lost = broken.read(100);
  broken.network.breakConnection('client', 'server');
  await t.rejects(runUntilSettled(broken.clock, lost), { code: 'DISCONNECTED' });
  const silent = await peers(5);
  silent.server.isAlive = false;
  silent.network.hostDown(silent.server);
  await runUntilSettled(silent.clock, silent.peer.closed);
  t.ok(silent.clock.nowUs > 1_000_000, 'not before the keepalive gave up');
});

t.test('disk: what was synced survives power loss, the rest may be torn, a kill loses nothing written', async (t) => {
  let torn = 0;
  let lost = 0;
  for (let seed = 1; seed <= 30; seed++) {
    const { clock, random, trace } = parts(seed);
    const disk = new SimulatedDisk('host', clock, random, trace);
    const owner: Incarnation = { host: 'host', time: new MachineTime(clock), isAlive: true };
    const view = disk.forProcess(owner);
    const before = Buffer.alloc(8192, 'a');
    const after = Buffer.alloc(8192, 'b');
    await runUntilSettled(
      clock,
      (async () => {
        await view.mkdir('test', '/data');
        await view.syncDirectory('test', '/');
        const file = await view.open('test', '/data/f', 'exclusive');
        await t.rejects(view.open('test', '/data/f', 'exclusive'), { code: 'EEXIST' });
        await view.syncDirectory('test', '/data');
        await file.write('test', before, 0);
        await file.datasync('test');
        file.writeSync('test', after, 0);
        const other = await view.open('test', '/data/never-synced', 'create');
        await other.write('test', after, 0);
      })(),
    );
    disk.processKilled(owner);
    t.ok(disk.content('/data/f').equals(after), 'the page cache survives the process');
    disk.losePower();
    const content = disk.content('/data/f');
    t.equal(content.length, 8192);
    t.notMatch(content.toString(), /[^ab]/);
    if (content.equals(before)) lost++;
    else if (!content.equals(after)) torn++;
    const names = disk.files('/data');
    t.ok(names.includes('/data/f'));
  }
  t.ok(torn > 0 && lost > 0, 'both happen');
});

t.test('disk: faults by label, and nothing completes for the dead', async (t) => {
  const { clock, random, trace } = parts(1);
  const disk = new SimulatedDisk('host', clock, random, trace);
  const owner: Incarnation = { host: 'host', time: new MachineTime(clock), isAlive: true };
  const view = disk.forProcess(owner);
  disk.onCall = (label) => (label === 'chunk.write' ? { failWith: 'EIO' } : undefined);
  const file = await runUntilSettled(clock, view.open('open', '/f', 'create'));
  await t.rejects(runUntilSettled(clock, file.write('chunk.write', Buffer.from('x'), 0)), { code: 'EIO' });
  await runUntilSettled(clock, file.write('other', Buffer.from('x'), 0));
  let isSettled = false;
  const settle = (): void => {
    isSettled = true;
  };
  file.write('other', Buffer.from('y'), 0).then(settle, settle);
  owner.isAlive = false;
  while (clock.step()) await microtasksDrained();
  t.notOk(isSettled);
});

t.test(
  'disk: planted faults hang, are lifted, and are counted; volumes are full, away and put back by themselves',
  async (t) => {
    const { clock, random, trace } = parts(1);
    const disk = new SimulatedDisk('host', clock, random, trace);
    const owner: Incarnation = { host: 'host', time: new MachineTime(clock), isAlive: true };
    const view = disk.forProcess(owner);
    const run = <T>(work: Promise<T>): Promise<T> => runUntilSettled(clock, work);
    for (const path of ['/a', '/b']) disk.format(path);
    const file = await run(view.open('open', '/a/f', 'create'));
    await run(file.write('write', Buffer.from('one'), 0));

    const hang = disk.plant((_, path) => path.startsWith('/a/'), { hangs: true });
    let isSettled = false;
    const hung = file.write('write', Buffer.from('two'), 0).then(() => (isSettled = true));
    while (clock.step()) await microtasksDrained();
    t.notOk(isSettled);
    disk.lift(hang);
    await run(hung);
    t.equal(hang.hits, 1);

    const before = disk.snapshot('/a');
    const failure = disk.plant((label) => label === 'sync', { failWith: 'EIO' });
    await t.rejects(run(file.datasync('sync')), { code: 'EIO' });
    disk.lift(failure);
    await run(file.datasync('sync'));

    disk.fill(0, '/a');
    await t.rejects(run(file.write('write', Buffer.alloc(50_000), 0)), { code: 'ENOSPC' });
    t.equal(disk.fullHits, 1);
    const other = await run(view.open('open', '/b/f', 'create'));
    await run(other.write('write', Buffer.alloc(50_000), 0));
    disk.makeRoom('/a');
    await run(file.write('write', Buffer.alloc(50_000), 0));

    disk.unmount('/a');
    t.same(disk.files('/a'), []);
    disk.mount('/a');
    t.equal(disk.content('/a/f').length, 50_000);
    disk.rot('/a/f', 7);
    t.not(disk.content('/a/f')[7], 0);
    disk.putBack('/a', before);
    t.equal(disk.content('/a/f').toString(), 'two');
    disk.replaceVolume('/a');
    t.same(disk.files('/a'), []);
  },
);

t.test('a frozen machine: no timer, no call, no message; its clock stands or goes on', async (t) => {
  for (const kind of ['suspended', 'stopped'] as const) {
    const { clock, network, server, read } = await peers(3);
    const view = clock.forProcess({ isAlive: () => true, time: server.time, skewUs: () => 0, onFire: () => undefined });
    let firedUs = 0;
    view.setTimer(5_000, () => (firedUs = clock.nowUs));
    const beganMs = view.monotonicMs();
    server.time.freeze(kind);
    network.freeze('server');
    const refused = t.rejects(read(10), { code: 'TIMEOUT' });
    await runUntilSettled(clock, new Promise<void>((resolve) => clock.schedule(8e6, resolve)));
    await refused;
    t.equal(firedUs, 0);
    t.equal(view.monotonicMs() - beganMs > 7_000, kind === 'stopped');
    const thawedUs = clock.nowUs;
    network.thaw('server');
    t.ok(server.time.thaw() > 0);
    await runUntilSettled(clock, new Promise<void>((resolve) => clock.schedule(6e6, resolve)));
    t.equal(Math.round((firedUs - thawedUs) / 1e6), kind === 'stopped' ? 0 : 5);
    t.equal((await runUntilSettled(clock, read(10))).payload.length, 10);
  }
});

t.test('network: refused hosts lose their connections and get none, until they are healed', async (t) => {
  const { clock, network, read } = await peers(5);
  const call = read(1_000_000);
  t.equal(network.refuse('client', 'server'), 1);
  await t.rejects(runUntilSettled(clock, call), { code: 'DISCONNECTED' });
  const again = network.forProcess({ host: 'client', time: new MachineTime(clock), isAlive: true });
  await t.rejects(runUntilSettled(clock, again.connect('server:7000', 1000)), { code: 'UNAVAILABLE' });
  network.heal('client', 'server');
  (await runUntilSettled(clock, again.connect('server:7000', 1000))).close('done');
});

t.test('guards: real time and randomness throw and are kept', async (t) => {
  const guards = new Guards();
  guards.install();
  const uses: unknown[] = [];
  for (const use of [() => Date.now(), () => Math.random(), () => setTimeout(() => undefined, 1), () => new Date()]) {
    try {
      use();
    } catch (error) {
      uses.push(error);
    }
  }
  const { randomBytes } = await import('node:crypto');
  try {
    randomBytes(1);
  } catch (error) {
    uses.push(error);
  }
  const fixed = new Date(5).getTime();
  guards.uninstall();
  t.equal(uses.length, 5);
  t.equal(guards.violations.length, 5);
  t.equal(fixed, 5);
  t.ok(Date.now() > 0 && Math.random() < 1 && !hasCode(uses[0]));
});
