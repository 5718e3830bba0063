/** What a person does: up, shell work, down, up again; and what is refused, with the remedy. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t from 'tap';
import { runningIn } from '../../src/cli/machine/process-control.js';
import { mountedOn, unmountPath } from '../../src/fuse/mountpoint.js';
import { runCairn } from '../support/process-cluster.js';

const execute = promisify(execFile);

interface Place {
  readonly mountpoint: string;
  readonly data: string;
  readonly port: number;
  up(...args: string[]): ReturnType<typeof runCairn>;
  down(...args: string[]): ReturnType<typeof runCairn>;
  cairn(...args: string[]): ReturnType<typeof runCairn>;
  pid(name: string): Promise<number>;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function setUp(t: { teardown(action: () => Promise<void>): void }): Promise<Place> {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-up-'));
  const [mountpoint, data, port] = [join(directory, 'mnt'), join(directory, 'data'), await freePort()];
  const env = { ...process.env, CAIRN_DATA: join(directory, 'default') };
  const place: Place = {
    ...{ mountpoint, data, port },
    up: (...args) => runCairn(['up', mountpoint, '--data', data, '--port', String(port), ...args], env),
    down: (...args) => runCairn(['down', mountpoint, '--data', data, ...args], env),
    cairn: (...args) => runCairn(args, env),
    pid: async (name) => Number(await readFile(join(data, name, 'pid'), 'utf8')),
  };
  t.teardown(async () => {
    await place.down('--force');
    if ((await mountedOn(mountpoint)) !== undefined) await unmountPath(mountpoint, 'lazy');
    await rm(directory, { recursive: true, force: true });
  });
  return place;
}

t.test('up, shell work, down, up: every file is back; up twice and down twice say so', async (t) => {
  const place = await setUp(t);
  const up = await place.up();
  t.equal(up.code, 0, up.stderr);
  t.match(
    up.stdout,
    /^up: .*3 chunkservers, each file on 2\n +master +127.0.0.1:\d+\n.*data and logs.*\n +health .*cairn status\n +to stop .*cairn down/,
  );
  await execute('sh', ['-c', 'mkdir -p a/b && cp -r /etc/default a/ && echo text > a/b/file && ln -s file a/b/link'], {
    cwd: place.mountpoint,
  });
  t.match((await place.up()).stdout, /^already up/);

  const down = await place.down();
  t.equal(down.code, 0, down.stderr);
  t.match(down.stdout, new RegExp(`^down: .*cairn up ${place.mountpoint} --data ${place.data}\n$`));
  t.equal(await mountedOn(place.mountpoint), undefined);
  t.match((await place.down()).stdout, /^not up/);

  t.equal((await place.up()).code, 0);
  t.equal((await execute('cat', [join(place.mountpoint, 'a/b/link')])).stdout, 'text\n');
  await execute('diff', ['-r', '/etc/default', join(place.mountpoint, 'a/default')]);

  const inMount = await place.cairn('info', join(place.mountpoint, 'a/b/file'));
  t.match(inMount.stdout, /path +\/a\/b\/file\n[^]*127\.0\.0\.1:\d+ \(\d\), 127/, 'found by its mount');
  const byPath = await place.cairn('info', 'cairn:/a/b/file', '--json', '--data', place.data);
  const { chunks } = JSON.parse(byPath.stdout) as { chunks: { replicas: unknown[] }[] };
  t.equal(chunks[0]?.replicas.length, 2);

  const found = await place.cairn('status');
  t.match(found.stdout, /^health +healthy/, 'found without being told where it is');
  t.equal((await place.cairn('ls', '/')).stdout, 'a\n');
  t.equal((await place.cairn('down', place.mountpoint)).code, 0);
  t.match((await place.cairn('up', place.mountpoint)).stdout, `data and logs  ${place.data}\n`, 'its data as before');
  t.equal((await place.down()).code, 0);
});

t.test('half up is completed: after kill -9 of the mount and of a chunkserver', async (t) => {
  const place = await setUp(t);
  t.equal((await place.up('--chunkservers', '2')).code, 0);
  await writeFile(join(place.mountpoint, 'kept'), 'kept');
  for (const name of ['mount', 'chunkserver-1']) process.kill(await place.pid(name), 'SIGKILL');
  const up = await place.up();
  t.equal(up.code, 0, up.stderr);
  t.match(up.stdout, /^up: .*2 chunkservers/);
  t.equal(await readFile(join(place.mountpoint, 'kept'), 'utf8'), 'kept');
});

t.test('interrupted, up stops what it started, and the next one finds its way', async (t) => {
  const place = await setUp(t);
  const main = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
  const args = [main, 'up', place.mountpoint, '--data', place.data, '--port', String(place.port)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (data: Buffer) => (said += data.toString()));
  while ((await place.pid('master').catch(() => undefined)) === undefined) await setTimeout(10);
  child.kill('SIGINT');
  const [code] = (await once(child, 'exit')) as [number];
  t.equal(code, 1);
  t.match(said, /interrupted/);
  for (const name of ['master', 'chunkserver-1', 'chunkserver-2', 'chunkserver-3', 'mount']) {
    t.equal(await runningIn(join(place.data, name)), undefined, name);
  }
  const again = await place.up();
  t.equal(again.code, 0, again.stderr);
});

t.test('down refuses while a program uses the mount, and names it; --force does not', async (t) => {
  const place = await setUp(t);
  t.equal((await place.up('--chunkservers', '1')).code, 0);
  const user = spawn('sleep', ['60'], { cwd: place.mountpoint });
  t.teardown(() => user.kill());
  const refused = await place.down();
  t.equal(refused.code, 1);
  t.match(refused.stderr, new RegExp(`in use by sleep \\(${user.pid ?? 0}\\).*--force`));
  t.equal((await place.up()).stdout.startsWith('already up'), true, 'nothing was stopped');
  const forced = await place.down('--force');
  t.equal(forced.code, 0, forced.stderr);
  t.notMatch(forced.stderr, /killed/);
});

t.test('what cannot work is refused with the remedy, and nothing is left running', async (t) => {
  const place = await setUp(t);
  const refuses = async (result: ReturnType<typeof runCairn>, message: RegExp): Promise<void> => {
    const { code, stderr } = await result;
    t.equal(code, 1, stderr);
    t.match(stderr, message);
  };
  await refuses(place.up('--chunkservers', '2', '--replicas', '3'), /--chunkservers 3/);
  const missing = join(place.data, '../none');
  await refuses(
    place.cairn('mount', missing, '--data', missing, '--master', '127.0.0.1:1', '--secret', missing),
    /none does not exist: mkdir -p/,
  );
  await refuses(place.cairn('down', missing, '--data', place.data), /none does not exist \(ENOENT\)\n$/);
  const file = join(place.data, '../file');
  await writeFile(file, '');
  await refuses(place.cairn('up', file, '--data', place.data), /not a directory/);
  await refuses(place.cairn('up', place.mountpoint, '--data', join(file, 'x')), /cannot write|--data/);
  await refuses(place.cairn('up', '/proc', '--data', place.data), /something else is mounted/);

  const foreign = join(place.data, '../foreign');
  await mkdir(foreign);
  await writeFile(join(foreign, 'thesis.txt'), 'precious');
  await refuses(place.cairn('up', place.mountpoint, '--data', foreign), /not a cluster's/);

  const server = createServer();
  await new Promise<void>((resolve) => server.listen(place.port, '127.0.0.1', resolve));
  await refuses(place.up(), new RegExp(`port ${place.port}.*--port`));
  await new Promise((resolve) => server.close(resolve));

  // A master that cannot start: its log's end is shown, and what was started is stopped.
  t.equal((await place.up('--chunkservers', '1')).code, 0);
  t.equal((await place.down()).code, 0);
  await appendFile(join(place.data, 'cluster.secret'), 'spoilt');
  await refuses(place.up(), /no secret/);
  await t.rejects(place.pid('master'));
});
