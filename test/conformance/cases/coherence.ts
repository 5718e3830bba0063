/** Two clients of one cluster: close-to-open (P2), writers at the same time. */
import assert from 'node:assert/strict';
import { hasCode } from '../../../src/core/errors.js';
import type { ErrorCode } from '../../../src/core/errors.js';
import { CHUNK_SIZE_BYTES, KIB } from '../../../src/core/limits.js';
import { equalBytes, fails, name, pattern, READ_ONLY, READ_WRITE, root } from '../case.js';
import type { ConformanceCase } from '../case.js';
import type { Attributes, OpenFile } from '../../../src/filesystem/filesystem.js';

/** So many that two clients do meet, also through kernels that look before they ask. */
const RACES = 25;

function onlyFailures(results: readonly PromiseSettledResult<unknown>[], code: ErrorCode): void {
  for (const each of results) {
    if (each.status === 'rejected') assert.ok(hasCode(each.reason, code), String(each.reason));
  }
}

export const coherenceCases: readonly ConformanceCase[] = [
  {
    name: 'P2: after close, another client that opens sees the bytes, back and forth',
    run: async (c) => {
      const f = await c.file('f');
      const clients = [c.fs, c.other];
      let expected = Buffer.alloc(0);
      for (let round = 0; round < 6; round++) {
        const [writer, reader] = round % 2 === 0 ? [c.fs, c.other] : [c.other, c.fs];
        const piece = pattern(50 * KIB + round, round + 1);
        const { file } = await writer.open(root, f, READ_WRITE);
        await file.write(expected.length, piece);
        await file.close();
        expected = Buffer.concat([expected, piece]);
        equalBytes(await c.content(f, reader), expected, `round ${round}`);
      }
      // Overwriting in place does not change the size: only an open tells that cached bytes are old.
      for (let round = 0; round < 4; round++) {
        const writer = clients[round % 2] ?? c.fs;
        const { file } = await writer.open(root, f, READ_WRITE);
        const piece = pattern(30 * KIB, 100 + round);
        await file.write(40 * KIB, piece);
        await file.close();
        piece.copy(expected, 40 * KIB);
        equalBytes(await c.content(f, c.fs), expected, `overwrite ${round}, first client`);
        equalBytes(await c.content(f, c.other), expected, `overwrite ${round}, second client`);
      }
    },
  },
  {
    name: 'P2: a copy ends where the file ends when it is locked, not where it ended before',
    run: async (c) => {
      const f = await c.file('f', name('short'));
      const { file: source } = await c.other.open(root, f, READ_WRITE);
      const { file: target } = await c.other.open(root, await c.file('copy'), READ_WRITE);
      for (let size = 5; size < 300 * KIB; size += 70 * KIB) {
        assert.equal(await target.copyFrom(source, 0, 0, 2 * size), size);
        const grown = await c.opened(f);
        await grown.write(size, pattern(70 * KIB, size));
        await grown.close();
        const request = { kind: 'posix', type: 'write', start: 0, end: 10, owner: 'other', pid: 1 } as const;
        await c.other.setLock(f, request, { wait: true });
        await c.other.setLock(f, { ...request, type: 'unlock' }, { wait: true });
      }
      await source.close();
      await target.close();
    },
  },
  {
    name: 'P2: fsync and flush publish too',
    run: async (c) => {
      const f = await c.file('f');
      const file = await c.opened(f);
      await file.write(0, name('synced'));
      await file.sync();
      assert.equal((await c.content(f, c.other)).toString(), 'synced');
      await file.write(6, name('+flushed'));
      await file.flush();
      assert.equal((await c.content(f, c.other)).toString(), 'synced+flushed');
      await file.close();
    },
  },
  {
    name: 'P2: what comes between a write and its close hides it from nobody',
    run: async (c) => {
      const [old, written] = [pattern(20 * KIB, 1), pattern(20 * KIB, 2)];
      const mtime = { seconds: 1_000_000, nanoseconds: 0 };
      const between: Record<string, (f: Attributes['inode'], file: OpenFile) => Promise<unknown>> = {
        utimensat: (f) => c.fs.setAttributes(root, f, { mtime, atime: mtime }),
        chmod: (f) => c.fs.setAttributes(root, f, { mode: 0o600 }),
        'ftruncate to the same size': (_f, file) => file.truncate(old.length),
        setxattr: (f) => c.fs.setXattr(root, f, name('user.a'), name('b')),
        'a flush and utimensat': async (f, file) => {
          await file.flush();
          await file.write(0, written.subarray(0, 10));
          await c.fs.setAttributes(root, f, { mtime });
        },
      };
      for (const [what, make] of Object.entries(between)) {
        const f = await c.file(what, old);
        equalBytes(await c.content(f, c.other), old, 'cached by the other');
        const file = await c.opened(f);
        await file.write(0, written);
        await make(f, file);
        // Cached again as it is now, with the old bytes or the new.
        await c.content(f, c.other);
        await file.close();
        equalBytes(await c.content(f, c.other), written, what);
      }
    },
  },
  {
    name: 'P2, P5: truncation by one client is seen by the open of another',
    run: async (c) => {
      const bytes = pattern(100 * KIB, 3);
      const f = await c.file('f', bytes);
      equalBytes(await c.content(f, c.other), bytes, 'cached by the other');
      await c.fs.setAttributes(root, f, { size: 1000 });
      equalBytes(await c.content(f, c.other), bytes.subarray(0, 1000), 'cut');
      await c.other.setAttributes(root, f, { size: 100 * KIB });
      const expected = Buffer.concat([bytes.subarray(0, 1000), Buffer.alloc(99 * KIB + 24)]);
      equalBytes(await c.content(f, c.fs), expected.subarray(0, 100 * KIB), 'extended');
      const { file } = await c.other.open(root, f, READ_WRITE);
      await file.write(50 * KIB, name('x'));
      await file.close();
      const again = await c.content(f, c.fs);
      assert.equal(again[50 * KIB], 'x'.charCodeAt(0));
      equalBytes(again.subarray(0, 50 * KIB), expected.subarray(0, 50 * KIB), 'zeros stay');
    },
  },
  {
    name: 'P2: the namespace as another client changed it, by openAt and readDirectory',
    run: async (c) => {
      const f = await c.file('f', name('1'));
      const seen = await c.other.openAt(root, c.dir, name('f'), READ_ONLY);
      assert.equal(seen.file.inode, f);
      await seen.file.close();
      await fails('ENOENT', c.other.openAt(root, c.dir, name('g'), READ_ONLY));
      await c.rename('f', 'g');
      const renamed = await c.other.openAt(root, c.dir, name('g'), READ_ONLY);
      assert.equal(renamed.file.inode, f);
      await renamed.file.close();
      await c.forgetNames();
      await fails('ENOENT', c.other.openAt(root, c.dir, name('f'), READ_ONLY));
      assert.deepEqual(await c.names(c.dir, c.other), ['g']);
      await fails('EEXIST', c.other.makeNode(root, c.dir, name('g'), { kind: 'directory', mode: 0o755 }));
    },
  },
  {
    name: 'P2: after a refused open a name leads where another client made it lead, not where it was believed to',
    run: async (c) => {
      for (const heldOpen of [false, true]) {
        const old = await c.file('f', name('old'));
        const holder = heldOpen ? await c.opened(old) : undefined;
        // With these in its memory it answers a look-up by itself.
        await c.other.getAttributes(c.dir);
        assert.equal((await c.other.lookup(root, c.dir, name('f'))).inode, old);
        const replacement = await c.file('new', name('new'));
        await c.rename('new', 'f');
        // Refused as a rule; where the file is still there, behind its back, the name must not lead there all the same.
        await c.other.open(root, old, READ_ONLY).then(
          ({ file }) => file.close(),
          () => undefined,
        );
        // While it is open elsewhere, a look-up alone may still lead to it for a moment. An open never does.
        const byName = await c.other.openAt(root, c.dir, name('f'), READ_ONLY);
        assert.equal(byName.attributes.inode, replacement);
        await byName.file.close();
        assert.equal((await c.other.lookup(root, c.dir, name('f'))).inode, replacement);
        assert.equal((await c.content(replacement, c.other)).toString(), 'new');
        await holder?.close();
      }
    },
  },
  {
    name: 'P2: an open by name leads to what the name leads to then, also while the file of before is open',
    run: async (c) => {
      const f = { parent: c.dir, name: name('f') };
      const openThere = async (text: string): Promise<string> => {
        // It knows the name, and what it led to.
        const { file } = await c.other.openAt(root, c.dir, f.name, READ_WRITE);
        const read = (await file.read(0, 100)).toString();
        await file.write(0, name(text));
        await file.close();
        return read;
      };
      const held: OpenFile[] = [];
      await c.file('f', name('0'));
      for (let round = 1; round <= 4; round++) {
        held.push((await c.other.openAt(root, c.dir, f.name, READ_ONLY)).file);
        await c.other.lookup(root, c.dir, f.name);
        if (round % 2 === 0) await c.rename('f', `f.${round}`);
        await c.file('new', name(String(round)));
        await c.rename('new', 'f');
        assert.equal(await openThere('x'), String(round), 'replaced by another client');
        assert.equal((await c.content((await c.lookup('f')).inode)).toString(), 'x', 'and written through the name');
      }
      // A name that this client gives by itself, and another one of the same file.
      const [from, to] = [f, { parent: c.dir, name: name('g') }];
      await c.other.rename(root, from, to);
      const { inode } = await c.other.lookup(root, c.dir, to.name);
      await c.other.link(root, inode, c.dir, f.name);
      assert.equal(await openThere('y'), 'x');
      await c.fs.unlink(root, c.dir, to.name);
      assert.equal(await openThere('z'), 'y', 'its other name was removed by another client');
      held.push((await c.other.openAt(root, c.dir, f.name, READ_ONLY)).file);
      await c.fs.unlink(root, c.dir, f.name);
      await fails('ENOENT', c.other.openAt(root, c.dir, f.name, READ_ONLY));
      for (const file of held) await file.close();
    },
  },
  {
    name: 'an open of one client keeps the file that the other unlinks',
    run: async (c) => {
      const bytes = pattern(80 * KIB, 4);
      const f = await c.file('f', bytes);
      const { file } = await c.other.open(root, f, READ_WRITE);
      await c.fs.unlink(root, c.dir, name('f'));
      equalBytes(await file.read(0, 100 * KIB), bytes, 'still there');
      await file.write(0, name('changed'));
      await file.sync();
      assert.equal((await file.read(0, 7)).toString(), 'changed');
      await file.close();
      assert.ok(await c.isGone(f));
    },
  },
  {
    name: 'P4: two clients write one file at once, in disjoint places of one block and of many',
    run: async (c) => {
      const f = await c.file('f');
      const pieces = 24;
      const length = 10_000;
      const start = CHUNK_SIZE_BYTES - 100_000;
      const bytes = pattern(pieces * length, 21);
      const write = async (fs: typeof c.fs, parity: number): Promise<void> => {
        const { file } = await fs.open(root, f, READ_WRITE);
        for (let i = parity; i < pieces; i += 2) {
          await file.write(start + i * length, bytes.subarray(i * length, (i + 1) * length));
          if (i % 6 < 2) await file.flush();
        }
        await file.close();
      };
      await Promise.all([write(c.fs, 0), write(c.other, 1)]);
      for (const fs of [c.fs, c.other]) {
        const { file, attributes } = await fs.open(root, f, READ_ONLY);
        assert.equal(attributes.size, start + bytes.length);
        equalBytes(await file.read(start, bytes.length), bytes, 'both writers');
        await file.close();
      }
    },
  },
  {
    name: 'P4: two clients overwrite the same range at once: both read the same afterwards',
    run: async (c) => {
      const f = await c.file('f', Buffer.alloc(200 * KIB, '0'));
      const write = async (fs: typeof c.fs, letter: string): Promise<void> => {
        const { file } = await fs.open(root, f, READ_WRITE);
        for (let i = 0; i < 5; i++) {
          await file.write(i * 20 * KIB, Buffer.alloc(60 * KIB, letter));
          await file.flush();
        }
        await file.close();
      };
      await Promise.all([write(c.fs, 'a'), write(c.other, 'b')]);
      const one = await c.content(f, c.fs);
      equalBytes(await c.content(f, c.other), one, 'both clients');
      assert.ok(one.subarray(0, 140 * KIB).every((byte) => byte === 97 || byte === 98));
    },
  },
  {
    name: 'creates of one name by two clients at once: one is exclusive',
    run: async (c) => {
      const options = { mode: 0o644, flags: READ_WRITE, exclusive: true };
      for (let round = 0; round < RACES; round++) {
        const results = await Promise.allSettled(
          [c.fs, c.other].map((fs) => fs.create(root, c.dir, name(`lock-${round}`), options)),
        );
        const made = results.filter((each) => each.status === 'fulfilled');
        assert.equal(made.length, 1, `round ${round}`);
        for (const each of made) await each.value.file.close();
        onlyFailures(results, 'EEXIST');
      }
    },
  },
  {
    name: 'NOREPLACE renames onto one name by two clients at once: one gets it, the other keeps its own',
    run: async (c) => {
      for (let round = 0; round < RACES; round++) {
        await c.file(`a-${round}`);
        await c.file(`b-${round}`);
        const to = { parent: c.dir, name: name(`to-${round}`) };
        const results = await Promise.allSettled(
          [c.fs, c.other].map((fs, index) =>
            fs.rename(root, { parent: c.dir, name: name(`${'ab'[index]}-${round}`) }, to, { noReplace: true }),
          ),
        );
        onlyFailures(results, 'EEXIST');
        const left = (await c.names()).filter((text) => text.endsWith(`-${round}`));
        assert.equal(left.length, 2, `round ${round}: ${left.join()}`);
      }
    },
  },
];
