import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import {
  claimDirectory,
  leaveDirectory,
  runningIn,
  startInBackground,
  stopIn,
} from '../../src/cli/machine/process-control.js';
import { readOrCreateSecret, readSecret } from '../../src/cli/machine/secret.js';

const temporary = (): Promise<string> => mkdtemp(join(tmpdir(), 'cairn-process-'));

t.test('a pid of another program is not believed, and never signalled', async (t) => {
  const directory = await temporary();
  const child = spawn('sleep', ['60']);
  t.teardown(() => child.kill());
  await writeFile(join(directory, 'pid'), `${child.pid ?? 0}\n`);
  t.equal(await runningIn(directory), undefined);
  t.equal(await stopIn(directory, 1000), 'not running');
  t.equal(child.exitCode, null);
  for (const text of ['', 'nonsense', '-1', '1', '99999999']) {
    await writeFile(join(directory, 'pid'), text);
    t.equal(await runningIn(directory), undefined, text);
  }
});

t.test('a directory is claimed and left', async (t) => {
  const directory = join(await temporary(), 'new');
  await mkdir(directory);
  await writeFile(join(directory, 'pid'), '1\n', { mode: 0o644 });
  await claimDirectory(directory);
  t.equal((await stat(join(directory, 'pid'))).mode & 0o777, 0o600, 'also one of an earlier release');
  await claimDirectory(directory);
  const other = `${directory}-by-another-name`;
  await symlink(directory, other);
  await t.rejects(claimDirectory(other), { code: 'EBUSY', message: /another process uses .*-by-another-name already/ });
  await leaveDirectory(directory);
  await t.rejects(stat(join(directory, 'pid')), { code: 'ENOENT' });
  await claimDirectory(other);
  await leaveDirectory(other);
});

t.test('a process that does not start tells why by its log', async (t) => {
  const directory = await temporary();
  await writeFile(join(directory, 'log'), '', { mode: 0o644 });
  const start = startInBackground(directory, ['chunkserver', '--data', directory], 10_000);
  await t.rejects(start, { message: /chunkserver did not start: --master is missing/ });
  t.equal((await stat(join(directory, 'log'))).mode & 0o777, 0o600, 'its log is for its user only');
  const secret = join(directory, 'none');
  const args = ['chunkserver', '--data', directory, '--master', '127.0.0.1:1', '--secret', secret];
  const why = {
    code: 'ENOENT',
    message: new RegExp(`^cairn chunkserver did not start: there is no secret ${secret}: .*log$`),
  };
  await t.rejects(
    startInBackground(directory, args, 10_000),
    why,
    'the message and its code, without the log around it',
  );
});

t.test('P12: the secret is made once, for its owner only, and checked', async (t) => {
  const path = join(await temporary(), 'deep/secret');
  const secrets = await Promise.all([readOrCreateSecret(path), readOrCreateSecret(path)]);
  t.equal(secrets[0].length, 32);
  t.same(secrets[0], secrets[1]);
  t.equal((await stat(path)).mode & 0o777, 0o600);
  const open = join(await temporary(), 'open');
  await writeFile(open, 'a'.repeat(64), { mode: 0o644 });
  await t.rejects(readSecret(open), { code: 'EACCES' });
  const short = join(await temporary(), 'short');
  await writeFile(short, 'abc', { mode: 0o600 });
  await t.rejects(readSecret(short), { code: 'EINVAL' });
  await t.rejects(readSecret('/nonexistent'), { code: 'ENOENT', message: /copy/ });
});
