/** Modes, owners, times and permissions through the kernel. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { as, fails } from './harness.js';
import type { MountCase } from './harness.js';

const ALICE = 1001;
const BOB = 1002;

export const mountAttributeCases: readonly MountCase[] = [
  {
    name: 'chmod and chown',
    run: (c) => {
      const f = c.write('f', 'x');
      for (const mode of [0o600, 0o4755, 0o2755, 0o777, 0]) {
        fs.chmodSync(f, mode);
        assert.equal(fs.statSync(f).mode & 0o7777, mode);
      }
      fs.mkdirSync(c.path('d'));
      fs.chmodSync(c.path('d'), 0o1777);
      assert.equal(fs.statSync(c.path('d')).mode & 0o7777, 0o1777);
      if (process.getuid?.() !== 0) return;
      fs.chownSync(f, ALICE, BOB);
      assert.deepEqual([fs.statSync(f).uid, fs.statSync(f).gid], [ALICE, BOB]);
      fs.symlinkSync('f', c.path('s'));
      fs.lchownSync(c.path('s'), 5, 6);
      assert.equal(fs.lstatSync(c.path('s')).uid, 5);
      assert.equal(fs.statSync(f).uid, ALICE);
    },
  },
  {
    name: 'times move as they should',
    run: (c) => {
      const f = c.write('f', 'x');
      const before = fs.statSync(f);
      const directory = fs.statSync(c.dir);
      c.tick();
      c.write('f', 'yy');
      c.write('g', '');
      const after = fs.statSync(f);
      assert.ok(after.mtimeMs > before.mtimeMs && after.ctimeMs > before.ctimeMs);
      assert.ok(fs.statSync(c.dir).mtimeMs > directory.mtimeMs);
      c.tick();
      fs.chmodSync(f, 0o600);
      assert.equal(fs.statSync(f).mtimeMs, after.mtimeMs);
      assert.ok(fs.statSync(f).ctimeMs > after.ctimeMs);
    },
  },
  {
    name: 'utimes sets atime and mtime',
    needs: ['mtime'],
    run: (c) => {
      const f = c.write('f', 'x');
      fs.utimesSync(f, 1_000_000_000, 1_100_000_000);
      assert.equal(fs.statSync(f).atimeMs, 1_000_000_000_000);
      assert.equal(fs.statSync(f).mtimeMs, 1_100_000_000_000);
    },
  },
  {
    name: 'utimes with nanoseconds',
    needs: ['mtime', 'nanoseconds'],
    run: (c) => {
      const f = c.write('f', 'x');
      fs.utimesSync(f, 1_000_000_000.25, 1_100_000_000.123456);
      const stat = fs.statSync(f, { bigint: true });
      assert.equal(stat.mtimeNs / 1000n, 1_100_000_000_123_456n);
    },
  },
  {
    name: 'P12: permissions of other users',
    needs: ['identity'],
    run: (c) => {
      fs.chmodSync(c.dir, 0o755);
      const secret = c.write('secret', 'x');
      fs.chmodSync(secret, 0o600);
      const readable = c.write('readable', 'x');
      fs.chmodSync(readable, 0o644);
      fs.mkdirSync(c.path('home'));
      fs.chownSync(c.path('home'), ALICE, ALICE);
      as(ALICE, () => {
        fails('EACCES', () => fs.readFileSync(secret));
        assert.equal(fs.readFileSync(readable, 'utf8'), 'x');
        fails('EACCES', () => fs.writeFileSync(readable, 'y'));
        fails('EACCES', () => fs.writeFileSync(c.path('new'), 'y'));
        fails('EACCES', () => fs.unlinkSync(readable));
        fails('EPERM', () => fs.chmodSync(readable, 0o777));
        fails('EPERM', () => fs.chownSync(readable, ALICE, ALICE));
        fs.writeFileSync(c.path('home', 'mine'), 'z');
      });
      assert.equal(fs.statSync(c.path('home', 'mine')).uid, ALICE);
      as(BOB, () => {
        fails('EACCES', () => fs.unlinkSync(c.path('home', 'mine')));
        fails('EACCES', () => fs.renameSync(c.path('home', 'mine'), c.path('home', 'yours')));
      });
    },
  },
  {
    name: 'P12: sticky and set-group-ID directories',
    needs: ['identity'],
    run: (c) => {
      const shared = c.path('shared');
      fs.mkdirSync(shared);
      fs.chownSync(shared, 0, 3000);
      fs.chmodSync(shared, 0o3777);
      as(ALICE, () => fs.writeFileSync(c.path('shared', 'f'), 'x'));
      assert.equal(fs.statSync(c.path('shared', 'f')).gid, 3000);
      as(BOB, () => {
        fails(['EPERM', 'EACCES'], () => fs.unlinkSync(c.path('shared', 'f')));
        fails(['EPERM', 'EACCES'], () => fs.renameSync(c.path('shared', 'f'), c.path('shared', 'g')));
      });
      as(ALICE, () => fs.unlinkSync(c.path('shared', 'f')));
    },
  },
];
