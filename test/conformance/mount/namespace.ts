/** Names, links, renames and listings through the kernel. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { fails } from './harness.js';
import type { MountCase } from './harness.js';

export const mountNamespaceCases: readonly MountCase[] = [
  {
    name: 'mkdir, rmdir, unlink: errors and link counts',
    run: (c) => {
      fs.mkdirSync(c.path('d'));
      fails('EEXIST', () => fs.mkdirSync(c.path('d')));
      c.write('f', 'x');
      fails('ENOTDIR', () => fs.mkdirSync(c.path('f', 'x')));
      fails('ENOENT', () => fs.mkdirSync(c.path('none', 'x')));
      fs.mkdirSync(c.path('d', 'sub'));
      assert.equal(fs.statSync(c.path('d')).nlink, 3);
      fails('ENOTEMPTY', () => fs.rmdirSync(c.path('d')));
      fails('ENOTDIR', () => fs.rmdirSync(c.path('f')));
      fails(['EISDIR', 'EPERM'], () => fs.unlinkSync(c.path('d')));
      fs.rmdirSync(c.path('d', 'sub'));
      assert.equal(fs.statSync(c.path('d')).nlink, 2);
      fs.rmdirSync(c.path('d'));
      fs.unlinkSync(c.path('f'));
      assert.deepEqual(c.names(), []);
      fails('ENOENT', () => fs.unlinkSync(c.path('f')));
    },
  },
  {
    name: 'open flags: O_CREAT, O_EXCL, O_TRUNC, O_DIRECTORY, O_NOFOLLOW',
    run: (c) => {
      const { O_CREAT, O_EXCL, O_RDWR, O_DIRECTORY, O_NOFOLLOW, O_WRONLY } = fs.constants;
      fs.closeSync(fs.openSync(c.path('f'), O_CREAT | O_EXCL | O_RDWR, 0o640));
      assert.equal(fs.statSync(c.path('f')).mode & 0o777, 0o640);
      fails('EEXIST', () => fs.openSync(c.path('f'), O_CREAT | O_EXCL | O_RDWR));
      c.write('f', 'content');
      fs.closeSync(fs.openSync(c.path('f'), 'w'));
      assert.equal(fs.statSync(c.path('f')).size, 0);
      fails('ENOTDIR', () => fs.openSync(c.path('f'), O_DIRECTORY));
      fails('EISDIR', () => fs.openSync(c.dir, O_WRONLY));
      fs.symlinkSync('f', c.path('s'));
      fails('ELOOP', () => fs.openSync(c.path('s'), O_NOFOLLOW));
      fs.symlinkSync('loop', c.path('loop'));
      fails('ELOOP', () => fs.openSync(c.path('loop'), 'r'));
      fails('ENOENT', () => fs.openSync(c.path('none'), 'r'));
    },
  },
  {
    name: 'the umask applies',
    run: (c) => {
      const old = process.umask(0o027);
      try {
        fs.closeSync(fs.openSync(c.path('f'), 'w', 0o666));
        fs.mkdirSync(c.path('d'), 0o777);
      } finally {
        process.umask(old);
      }
      assert.equal(fs.statSync(c.path('f')).mode & 0o777, 0o640);
      assert.equal(fs.statSync(c.path('d')).mode & 0o777, 0o750);
    },
  },
  {
    name: 'hard links and symlinks',
    run: (c) => {
      const f = c.write('f', 'data');
      fs.linkSync(f, c.path('g'));
      assert.equal(fs.statSync(c.path('g')).ino, fs.statSync(f).ino);
      assert.equal(fs.statSync(f).nlink, 2);
      fs.unlinkSync(f);
      assert.equal(fs.readFileSync(c.path('g'), 'utf8'), 'data');
      assert.equal(fs.statSync(c.path('g')).nlink, 1);
      fs.mkdirSync(c.path('d'));
      fails('EPERM', () => fs.linkSync(c.path('d'), c.path('dl')));
      fs.symlinkSync('../elsewhere/\u00e9', c.path('s'));
      assert.equal(fs.readlinkSync(c.path('s')), '../elsewhere/\u00e9');
      assert.equal(fs.lstatSync(c.path('s')).size, Buffer.byteLength('../elsewhere/\u00e9'));
      fails('ENOENT', () => fs.statSync(c.path('s')));
      fs.symlinkSync('g', c.path('t'));
      assert.equal(fs.readFileSync(c.path('t'), 'utf8'), 'data');
      fails('EINVAL', () => fs.readlinkSync(c.path('g')));
    },
  },
  {
    name: 'rename: over files and directories, across directories, errors',
    run: (c) => {
      c.write('a', 'a');
      c.write('b', 'b');
      fs.renameSync(c.path('a'), c.path('b'));
      assert.equal(fs.readFileSync(c.path('b'), 'utf8'), 'a');
      fs.mkdirSync(c.path('d'));
      fs.mkdirSync(c.path('e'));
      fs.renameSync(c.path('b'), c.path('d', 'b'));
      fails('EISDIR', () => fs.renameSync(c.path('d', 'b'), c.path('e')));
      fails('ENOTDIR', () => fs.renameSync(c.path('e'), c.path('d', 'b')));
      fails(['ENOTEMPTY', 'EEXIST'], () => fs.renameSync(c.path('e'), c.path('d')));
      fails('EINVAL', () => fs.renameSync(c.path('d'), c.path('d', 'x')));
      fails('ENOENT', () => fs.renameSync(c.path('none'), c.path('x')));
      fs.renameSync(c.path('d'), c.path('e'));
      assert.deepEqual(c.names(), ['e']);
      assert.deepEqual(c.names('e'), ['b']);
      assert.equal(fs.readFileSync(c.path('e', 'b'), 'utf8'), 'a');
    },
  },
  {
    name: 'names: NAME_MAX and UTF-8',
    run: (c) => {
      const longest = 'n'.repeat(255);
      c.write(longest, 'x');
      assert.deepEqual(c.names(), [longest]);
      fails('ENAMETOOLONG', () => c.write(longest + 'n', 'x'));
      fails('ENAMETOOLONG', () => fs.statSync(c.path(longest + 'n')));
      for (const odd of [' ', '\n', '-', '...', '\u00e9\u4e2d\u{1f600}', '*?"$']) c.write(odd, odd);
      assert.equal(c.names().length, 7);
      for (const odd of c.names()) fs.unlinkSync(c.path(odd));
    },
  },
  {
    name: 'names of arbitrary bytes',
    needs: ['binary-names'],
    run: (c) => {
      const odd = Buffer.concat([Buffer.from(`${c.dir}/`), Buffer.from([0xff, 0xfe, 0x80])]);
      fs.writeFileSync(odd, 'x');
      assert.equal(fs.readFileSync(odd, 'utf8'), 'x');
      const listed = fs.readdirSync(Buffer.from(c.dir), { encoding: 'buffer' });
      assert.deepEqual(listed, [Buffer.from([0xff, 0xfe, 0x80])]);
      fs.unlinkSync(odd);
    },
  },
  {
    name: 'a directory of 1,500 entries: listed once each, also while it is emptied',
    run: async (c) => {
      const count = 1500;
      for (let i = 0; i < count; i++) fs.closeSync(fs.openSync(c.path(`entry-${i}`), 'w'));
      assert.equal(new Set(fs.readdirSync(c.dir)).size, count);
      let removed = 0;
      const directory = await fs.promises.opendir(c.dir, { bufferSize: 64 });
      for await (const entry of directory) {
        fs.unlinkSync(c.path(entry.name));
        removed++;
      }
      assert.equal(removed, count);
      assert.deepEqual(c.names(), []);
    },
  },
  {
    name: 'FIFOs and sockets',
    needs: ['special-files'],
    run: (c) => {
      execFileSync('mkfifo', [c.path('p')]);
      assert.ok(fs.statSync(c.path('p')).isFIFO());
      fs.renameSync(c.path('p'), c.path('q'));
      fs.unlinkSync(c.path('q'));
    },
  },
  {
    name: 'device nodes',
    needs: ['devices'],
    run: (c) => {
      execFileSync('mknod', [c.path('null'), 'c', '1', '3']);
      const stat = fs.statSync(c.path('null'));
      assert.ok(stat.isCharacterDevice());
      assert.equal(stat.rdev, 0x103);
    },
  },
  {
    name: 'statfs',
    run: (c) => {
      const stats = fs.statfsSync(c.dir);
      assert.ok(stats.blocks > 0 && stats.bsize > 0 && stats.bavail <= stats.blocks);
    },
  },
];
