/** Files beside a cluster's data: what is there already is not written again, so that a full disk stops no start. */
import { mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { writeJson } from '../../src/cli/machine/json-file.js';
import { makeDirectories } from '../../src/cli/machine/make-directories.js';
import { claimDirectory } from '../../src/cli/machine/process-control.js';
import { readOrCreateSecret } from '../../src/cli/machine/secret.js';

async function temporary(t: Tap): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-small-files-'));
  t.teardown(() => rm(directory, { recursive: true }));
  return directory;
}

/** Whether `work` leaves the directory as it is: no file made, none renamed or removed. */
async function leavesAlone(directory: string, work: () => Promise<unknown>): Promise<boolean> {
  await utimes(directory, 1, 1);
  await work();
  return (await stat(directory)).mtimeMs === 1000;
}

t.test('a secret and a description that are there are not written again', async (t) => {
  const directory = await temporary(t);
  const [secret, description] = [join(directory, 'secret'), join(directory, 'cluster.json')];
  const first = await readOrCreateSecret(secret);
  t.ok(await leavesAlone(directory, () => readOrCreateSecret(secret)));
  t.ok((await readOrCreateSecret(secret)).equals(first));
  await writeJson(description, { a: 1 });
  t.ok(await leavesAlone(directory, () => writeJson(description, { a: 1 })));
  t.notOk(await leavesAlone(directory, () => writeJson(description, { a: 2 })));
  t.match(await readFile(description, 'utf8'), '"a": 2');
});

t.test('what cannot be written is named, and no draft stays', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'file'), '');
  const inFile = join(directory, 'file', 'x');
  await t.rejects(writeJson(inFile, {}), { message: /cannot write .*file/ });
  t.strictSame(await readdir(directory), ['file']);
});

t.test('a pid is written over that of a killed process', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'pid'), '1234567890\n');
  t.ok(await leavesAlone(directory, () => claimDirectory(directory)));
  t.equal(await readFile(join(directory, 'pid'), 'utf8'), `${process.pid}\n`);
});

type Tap = { teardown(action: () => Promise<void>): void };

t.test(
  'directories are made, or it is told why not, also where nothing can be made',
  { timeout: 20_000 },
  async (t) => {
    const directory = await temporary(t);
    const deep = join(directory, 'a', 'b', 'c');
    await Promise.all([makeDirectories(deep), makeDirectories(deep)]);
    await makeDirectories(deep);
    t.strictSame(await readdir(join(directory, 'a', 'b')), ['c']);
    await writeFile(join(directory, 'file'), '');
    await t.rejects(makeDirectories(join(directory, 'file')), { code: 'ENOTDIR' });
    await t.rejects(makeDirectories(join(directory, 'file', 'a', 'b')), { code: 'ENOTDIR' });
    await t.rejects(makeDirectories('/proc/none/a'), { code: 'ENOENT' });
  },
);
