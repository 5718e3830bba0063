/** Saving as editors do it: by a rename over the file, or by overwriting it, with a backup; nothing else of it may change. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ProcessCluster } from '../support/process-cluster.js';
import { shell } from '../support/shell.js';
import { needsKernelDriver } from './needs.js';

/** A file with an owner, bits, an ACL, an attribute and a second name, in a directory whose default ACL says otherwise. */
const FILE = `
mkdir -p docs; setfacl -d -m u::rwx,g::-,o::rwx,u:1010:rw docs
printf 'one\\ntwo\\n' > docs/file; chown 1001:1002 docs/file; setfacl --set u::rw,g::r,o::-,u:1003:rw,m::rw docs/file
setfattr -n user.tag -v kept docs/file; ln docs/file docs/link; ln -s file docs/soft; touch -d '2001-01-01' docs/file`;

/** Owner, bits and ACL; not the time, the size, the names or the content. */
const identity = (directory: string): Promise<string> =>
  shell('stat -c "%a %u %g" file; getfacl -pn file', { directory });

t.test('saving by editors', { skip: needsKernelDriver('vim.tiny', 'setfacl', 'setfattr') }, async (t) => {
  const cluster = await ProcessCluster.start(t, { driver: 'kernel' });
  const [a, b] = [await cluster.mount(0), await cluster.mount(1)];
  const fresh = async (name: string): Promise<string> => {
    await shell(`mkdir "$1"; cd "$1"; umask 077; ${FILE}`, { directory: a, args: [name] });
    return join(a, name, 'docs');
  };
  const saved = async (t: Test, directory: string, before: string, content: string): Promise<void> => {
    for (const mount of [directory, directory.replace(a, b)]) {
      t.equal(await readFile(join(mount, 'file'), 'utf8'), content);
      t.equal(await identity(mount), before, 'owner, bits and ACL');
    }
  };
  /** Two edits and saves in one session, as a user does it. */
  const vim = (directory: string, settings: string): Promise<string> =>
    shell(
      `TERM=dumb timeout 30 vim.tiny -u NONE -N -es -c 'set backupskip= ${settings}' -c '%s/two/three/' -c w -c '$s/$/ and four/' -c w -c q file </dev/null`,
      { directory },
    );

  for (const [settings, isInPlace] of [
    ['backup backupcopy=no', false],
    ['backup backupcopy=yes', true],
    ['nobackup writebackup backupcopy=no', false],
    ['nobackup nowritebackup', true],
  ] as const) {
    await t.test(`vim: ${settings}`, async (t) => {
      const directory = await fresh(settings.replaceAll(' ', '_'));
      const [before, inode] = [await identity(directory), await shell('stat -c %i file', { directory })];
      await vim(directory, settings);
      await saved(t, directory, before, 'one\nthree and four\n');
      const names = (await shell('ls -A', { directory })).trim().split('\n');
      t.same(names.sort(), ['file', 'link', 'soft', ...(settings.startsWith('backup') ? ['file~'] : [])].sort());
      if (settings.startsWith('backup')) t.equal(await readFile(join(directory, 'file~'), 'utf8'), 'one\nthree\n');
      const now = await shell('stat -c %i file; stat -c %h link', { directory });
      t.equal(now === `${inode}2\n`, isInPlace, 'overwritten, or replaced under its name');
      if (isInPlace) t.match(await shell('getfattr -d file', { directory }), 'user.tag="kept"');
      t.equal(await readFile(join(directory, 'link'), 'utf8'), isInPlace ? 'one\nthree and four\n' : 'one\ntwo\n');
    });
  }

  await t.test('vim follows a link, and keeps its swap file while it edits', async (t) => {
    const directory = await fresh('swap');
    const before = await identity(directory);
    await shell(
      `TERM=dumb timeout 30 vim.tiny -u NONE -N -es -c 'set swapfile backupcopy=auto' -c 'edit soft' -c '1s/one/ONE/' -c preserve \\
         -c '!ls -A > ../during' -c wq </dev/null`,
      { directory },
    );
    t.match(await shell('cat ../during', { directory }), /^\.(file|soft)\.swp$/m);
    await saved(t, directory, before, 'ONE\ntwo\n');
    t.equal(await shell('readlink soft; ls -A', { directory }), 'file\nfile\nlink\nsoft\n');
    // What a killed session left is found again.
    await shell(
      `TERM=dumb timeout 30 vim.tiny -u NONE -N -es -c 'edit file' -c '2s/two/unsaved/' -c preserve -c '!kill -9 $PPID' </dev/null || true
       TERM=dumb timeout 30 vim.tiny -u NONE -N -es -r -c 'w! recovered' -c 'q!' file </dev/null || true`,
      { directory },
    );
    t.equal(await readFile(join(directory, 'recovered'), 'utf8'), 'ONE\nunsaved\n');
  });

  await t.test('P2: a reader on another mount sees the old file or the new one, never less', async (t) => {
    const directory = await fresh('atomic');
    const lines = 2000;
    const content = (number: number): string => `${number}\n`.repeat(lines);
    const save = `for i in $(seq 1 40); do
        seq ${lines} | sed s/.*/$i/ > .new; chmod --reference=file .new; sync .new; mv .new file; done; touch done`;
    const watch = `for i in $(seq 1 100000); do [ ! -e done ] || break; cat file > ../seen; [ $(uniq ../seen | wc -l) = 1 ]
        [ $(wc -l < ../seen) = ${lines} ]; head -1 ../seen; done`;
    await shell(`seq ${lines} | sed s/.*/0/ > file`, { directory });
    const [seen] = await Promise.all([
      shell(watch, { directory: directory.replace(a, b) }),
      shell(save, { directory }),
    ]);
    const numbers = seen.trim().split('\n').map(Number);
    t.same(
      numbers,
      [...numbers].sort((x, y) => x - y),
      'and never an older one again',
    );
    t.ok(new Set(numbers).size > 3, `${new Set(numbers).size} of them`);
    t.equal(await readFile(join(directory.replace(a, b), 'file'), 'utf8'), content(40));
  });

  await t.test('other ways: by a link as backup, by copying back, sed -i', async (t) => {
    const directory = await fresh('others');
    const before = await identity(directory);
    await shell(
      `ln file file.bak; cp -p --preserve=all file .tmp; echo three >> .tmp; mv .tmp file; cmp file.bak link
       cp -a file .tmp2; sed -i -e 's/three/four/' .tmp2; [ "$(stat -c '%a %u:%g' .tmp2)" = "$(stat -c '%a %u:%g' file)" ]
       cat .tmp2 > file; rm .tmp2`,
      { directory },
    );
    await saved(t, directory, before, 'one\ntwo\nfour\n');
  });
});
