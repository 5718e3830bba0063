/** P12: nobody without the cluster's secret joins, reads or writes. */
import t from 'tap';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { writeFile as writeLocalFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connectTo } from '../../src/cli/compose.js';
import { ProcessCluster } from '../support/process-cluster.js';
import { content, readFile, writeFile } from '../support/files.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

async function otherSecret(cluster: ProcessCluster): Promise<string> {
  const path = join(cluster.directory.path, 'other-secret');
  await writeLocalFile(path, randomBytes(32).toString('hex') + '\n', { mode: 0o600 });
  return path;
}

t.test('P12: a client with another secret is refused at once, and the cluster goes on', async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 2 });
  const started = performance.now();
  const secretFile = await otherSecret(cluster);
  await t.rejects(connectTo({ master: cluster.master, secretFile }), { code: /UNAUTHENTICATED|EACCES/ });
  t.ok(performance.now() - started < 15_000, 'without retries: the secret will not become right');
  const fs = await cluster.client();
  await writeFile(fs, 'file', content(1, 1000));
  t.ok((await readFile(fs, 'file')).equals(content(1, 1000)));
});

t.test('P12: a chunkserver with another secret does not join', async (t) => {
  const cluster = await ProcessCluster.start(t, { chunkservers: 2 });
  const directory = join(cluster.directory.path, 'intruder');
  const args = ['--data', directory, '--master', cluster.master, '--secret', await otherSecret(cluster)];
  const intruder = spawn(process.execPath, [MAIN, 'chunkserver', ...args], { stdio: 'ignore' });
  t.teardown(() => intruder.kill('SIGKILL'));
  await pause(3000);
  const { servers } = await (await cluster.client()).status();
  t.equal(servers.length, 2, 'the master has not registered it');
});
