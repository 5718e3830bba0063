import { chmod, lstat, mkdir, mkdtemp, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { makeCommandLink, removeCommandLink } from '../../src/cli/machine/command-link.js';
import { cairnCommand, forgetProgramName, SCRIPT } from '../../src/cli/machine/program-name.js';

/** An empty directory for the link, alone in the PATH unless told otherwise. */
async function setUp(options: { inPath: boolean }): Promise<{ directory: string; link: string }> {
  const directory = join(await mkdtemp(join(tmpdir(), 'cairn-link-')), 'bin');
  process.env['CAIRN_BIN_DIR'] = directory;
  process.env['PATH'] = options.inPath ? directory : '/nonexistent';
  forgetProgramName();
  return { directory, link: join(directory, 'cairn') };
}

const before = { ...process.env };
t.teardown(() => {
  process.env = before;
});

t.test('the link is made once, told, used in messages, and taken away', async (t) => {
  const { link } = await setUp({ inPath: true });
  t.equal(cairnCommand('status'), `${SCRIPT} status`, 'a message names what works now');
  const told = await makeCommandLink('/mnt/a b');
  t.equal(told.length, 1);
  t.match(told[0], `${link} is a link to ${SCRIPT}, made now; to take it away: cairn down --remove '/mnt/a b'`);
  t.equal(await readlink(link), SCRIPT);
  t.equal(cairnCommand('down', "it's"), String.raw`cairn down 'it'\''s'`);
  t.same(await makeCommandLink('/mnt'), [], 'nothing to tell when it is there');
  t.equal(await removeCommandLink(), link);
  await t.rejects(lstat(link), { code: 'ENOENT' });
  t.equal(await removeCommandLink(), undefined);
  t.equal(cairnCommand('status'), `${SCRIPT} status`);
});

t.test('where the shell does not look, the line to add is told', async (t) => {
  const { directory } = await setUp({ inPath: false });
  const told = await makeCommandLink('/mnt');
  t.equal(told[1], `for this shell: export PATH="${directory}:$PATH"`);
  t.match(told[0], `${SCRIPT} down --remove /mnt`, 'by its path, since its name is not found');
  t.equal((await makeCommandLink('/mnt')).length, 2, 'each time, while it is not found');
});

t.test("another program's file or link is left alone; a link to a clone that is gone is not", async (t) => {
  for (const kind of ['program', 'link to another clone', 'dangling link of another program'] as const) {
    const { directory, link } = await setUp({ inPath: true });
    await mkdir(directory);
    const clone = join(directory, '../other/scripts');
    if (kind === 'program') await writeFile(link, '#!/bin/sh\n', { mode: 0o755 });
    if (kind === 'link to another clone') {
      await mkdir(clone, { recursive: true });
      await writeFile(join(clone, 'cairn'), '');
      await chmod(join(clone, 'cairn'), 0o755);
      await symlink(join(clone, 'cairn'), link);
    }
    if (kind === 'dangling link of another program') await symlink('/nonexistent/cairn', link);
    const there = await lstat(link);
    const told = await makeCommandLink('/mnt');
    t.match(told, [new RegExp(`^${link} is another program.*command is ${SCRIPT}$`)], kind);
    t.equal(await removeCommandLink(), undefined, kind);
    t.equal((await lstat(link)).ino, there.ino, kind);
    t.equal(cairnCommand(), SCRIPT, kind);
    if (kind === 'link to another clone') {
      await rm(clone, { recursive: true });
      t.match(await makeCommandLink('/mnt'), [/made now/]);
      t.equal(await readlink(link), SCRIPT);
    }
  }
});

t.test('no link is wanted, or none can be made', async (t) => {
  const { directory } = await setUp({ inPath: true });
  process.env['CAIRN_BIN_DIR'] = '';
  t.same(await makeCommandLink('/mnt'), []);
  await writeFile(directory, 'a file');
  process.env['CAIRN_BIN_DIR'] = directory;
  t.match(await makeCommandLink('/mnt'), [new RegExp(`^${SCRIPT}; no link in ${directory}: `)]);
});
