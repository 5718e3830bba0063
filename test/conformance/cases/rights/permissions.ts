/** P12: nobody does what the permissions forbid. Checks of modes, groups and the sticky bit. */
import assert from 'node:assert/strict';
import { alice, bob, carol, fails, name, READ_ONLY, READ_WRITE, root, SHARED_GROUP, WRITE_ONLY } from '../../case.js';
import type { ConformanceCase } from '../../case.js';

export const permissionCases: readonly ConformanceCase[] = [
  {
    name: 'P12: open checks owner, group and others, the first that applies',
    run: async (c) => {
      const f = await c.file('f', name('x'), { as: alice });
      await c.fs.setAttributes(root, f, { gid: SHARED_GROUP });
      const modes = [
        { mode: 0o600, alice: 'rw', bob: '', carol: '' },
        { mode: 0o640, alice: 'rw', bob: 'r', carol: '' },
        { mode: 0o624, alice: 'rw', bob: 'w', carol: 'r' },
        { mode: 0o066, alice: '', bob: 'rw', carol: 'rw' },
        { mode: 0o606, alice: 'rw', bob: '', carol: 'rw' },
        { mode: 0o000, alice: '', bob: '', carol: '' },
      ];
      const people = { alice, bob, carol };
      for (const row of modes) {
        await c.fs.setAttributes(root, f, { mode: row.mode });
        for (const who of ['alice', 'bob', 'carol'] as const) {
          for (const flags of [READ_ONLY, WRITE_ONLY, READ_WRITE]) {
            const isAllowed = (!flags.read || row[who].includes('r')) && (!flags.write || row[who].includes('w'));
            const opening = c.fs.open(people[who], f, flags);
            if (isAllowed) await (await opening).file.close();
            else await fails('EACCES', opening);
          }
          for (const [letter, mask] of [
            ['r', 4],
            ['w', 2],
          ] as const) {
            const asking = c.fs.access(people[who], f, mask);
            if (row[who].includes(letter)) await asking;
            else await fails('EACCES', asking);
          }
        }
        await (await c.opened(f)).close();
      }
    },
  },
  {
    name: 'P12: access: existence, and root executes only what somebody may',
    run: async (c) => {
      const f = await c.file('f', undefined, { mode: 0o644 });
      await c.fs.access(alice, f, 0);
      await fails('EACCES', c.fs.access(root, f, 1));
      await fails('EACCES', c.fs.access(alice, f, 2));
      await c.fs.access(root, f, 6);
      await c.fs.setAttributes(root, f, { mode: 0o001 });
      await c.fs.access(root, f, 1);
      await c.fs.access(alice, f, 1);
      const d = await c.mkdir('d', 0o700);
      await c.fs.setAttributes(root, d, { mode: 0 });
      await c.fs.access(root, d, 7);
      await fails('EACCES', c.fs.access(alice, d, 1));
    },
  },
  {
    name: 'P12: adding and removing entries needs w and x on the directory',
    run: async (c) => {
      const d = await c.mkdir('d', 0o755, alice);
      const f = await c.file('f', undefined, { as: alice, parent: d });
      const options = { mode: 0o644, flags: READ_WRITE };
      const attempts = [
        () => c.fs.makeNode(bob, d, name('n'), { kind: 'directory', mode: 0o755 }),
        () => c.fs.makeNode(bob, d, name('n'), { kind: 'fifo', mode: 0o755 }),
        () => c.fs.create(bob, d, name('n'), options),
        () => c.fs.symlink(bob, d, name('n'), name('t')),
        () => c.fs.link(bob, f, d, name('n')),
        () => c.fs.unlink(bob, d, name('f')),
      ];
      // Without w, and with w but not x.
      for (const mode of [0o755, 0o756]) {
        await c.fs.setAttributes(alice, d, { mode });
        // Linux may forbid links to what one cannot write altogether (protected_hardlinks), and then says EPERM.
        for (const attempt of attempts) await fails(['EACCES', 'EPERM'], attempt());
      }
      await c.mkdir('sub', 0o755, alice, d);
      await c.fs.setAttributes(alice, d, { mode: 0o755 });
      await fails('EACCES', c.fs.removeDirectory(bob, d, name('sub')));
      await c.fs.setAttributes(alice, d, { mode: 0o777 });
      await c.fs.removeDirectory(bob, d, name('sub'));
      await c.fs.unlink(bob, d, name('f'));
    },
  },
  {
    name: 'P12: a directory without x hides everything below',
    run: async (c) => {
      const d = await c.mkdir('d', 0o755, alice);
      await c.file('f', undefined, { as: alice, mode: 0o666, parent: d });
      await c.fs.setAttributes(alice, d, { mode: 0o666 });
      await fails('EACCES', c.fs.lookup(bob, d, name('f')));
      await fails('EACCES', c.fs.openAt(bob, d, name('f'), READ_ONLY));
      await fails('EACCES', c.fs.create(bob, d, name('f'), { mode: 0o644, flags: READ_WRITE }));
      await fails('EACCES', c.fs.unlink(bob, d, name('f')));
      await fails('EACCES', c.rename('f', 'g', { as: bob, fromParent: d }));
      await c.fs.lookup(root, d, name('f'));
    },
  },
  {
    name: 'P12: sticky directories: unlink and rmdir by owners alone',
    run: async (c) => {
      const sticky = await c.mkdir('sticky', 0o755, carol);
      await c.fs.setAttributes(carol, sticky, { mode: 0o1777 });
      const refused = ['EPERM', 'EACCES'] as const;
      await c.file('f', undefined, { as: alice, parent: sticky });
      await c.mkdir('d', 0o777, alice, sticky);
      await fails(refused, c.fs.unlink(bob, sticky, name('f')));
      await fails(refused, c.fs.removeDirectory(bob, sticky, name('d')));
      await c.fs.unlink(alice, sticky, name('f'));
      await c.fs.removeDirectory(carol, sticky, name('d'));
      await c.file('g', undefined, { as: alice, parent: sticky });
      await c.fs.unlink(root, sticky, name('g'));
    },
  },
  {
    name: 'P12: only root makes devices, but everybody the character device 0,0, which is none',
    run: async (c) => {
      for (const kind of ['characterDevice', 'blockDevice'] as const) {
        await fails('EPERM', c.fs.makeNode(alice, c.dir, name('dev'), { kind, mode: 0o600, rdev: 1 }));
      }
      await fails('EPERM', c.fs.makeNode(alice, c.dir, name('dev'), { kind: 'blockDevice', mode: 0o600, rdev: 0 }));
      await c.fs.makeNode(alice, c.dir, name('fifo'), { kind: 'fifo', mode: 0o600 });
      await c.fs.makeNode(alice, c.dir, name('whiteout'), { kind: 'characterDevice', mode: 0o600, rdev: 0 });
      assert.deepEqual(await c.names(), ['fifo', 'whiteout']);
    },
  },
  {
    name: 'P12: create of an existing file checks the file, not the directory',
    run: async (c) => {
      const d = await c.mkdir('d', 0o755, alice);
      await c.file('open', undefined, { as: alice, mode: 0o666, parent: d });
      await c.file('shut', undefined, { as: alice, mode: 0o600, parent: d });
      const options = { mode: 0o644, flags: READ_WRITE };
      await (await c.fs.create(bob, d, name('open'), options)).file.close();
      await fails('EACCES', c.fs.create(bob, d, name('shut'), options));
      await fails('EACCES', c.fs.create(bob, d, name('new'), options));
      const truncating = { ...options, flags: { ...READ_ONLY, truncate: true } };
      await c.fs.setAttributes(alice, (await c.lookup('open', d)).inode, { mode: 0o644 });
      await fails('EACCES', c.fs.create(bob, d, name('open'), truncating));
    },
  },
];
