/** Listing directories: paging, cookies that stay valid, attributes. */
import assert from 'node:assert/strict';
import { alice, fails, name, root } from '../../case.js';
import type { CaseContext, ConformanceCase } from '../../case.js';

async function fill(c: CaseContext, count: number): Promise<string[]> {
  const names = Array.from({ length: count }, (_, index) => `entry-${String(index).padStart(4, '0')}`);
  for (const text of names) await c.fs.makeNode(root, c.dir, name(text), { kind: 'file', mode: 0o600 });
  return names;
}

export const directoryCases: readonly ConformanceCase[] = [
  {
    name: 'readDirectory: empty, ENOTDIR, parent',
    run: async (c) => {
      const d = await c.mkdir('d');
      const page = await c.fs.readDirectory(root, d, 0);
      assert.deepEqual([page.entries.length, page.end, page.parent], [0, true, c.dir]);
      await fails('ENOTDIR', c.fs.readDirectory(root, await c.file('f'), 0));
      const up = await c.fs.readDirectory(root, c.dir, 0);
      assert.equal((await c.fs.readDirectory(root, up.parent, 0)).parent, up.parent, 'the root is its own parent');
    },
  },
  {
    name: 'readDirectory: pages of any size give every entry once',
    run: async (c) => {
      const names = await fill(c, 40);
      for (const maxEntries of [1, 7, 40, 1000]) {
        const seen: string[] = [];
        for (let cookie = 0, end = false; !end;) {
          const page = await c.fs.readDirectory(root, c.dir, cookie, { maxEntries });
          assert.ok(page.entries.length <= maxEntries && (page.end || page.entries.length > 0));
          seen.push(...page.entries.map((entry) => entry.name.toString()));
          cookie = page.entries.at(-1)?.cookie ?? cookie;
          end = page.end;
        }
        assert.deepEqual(seen.sort(), names);
      }
    },
  },
  {
    name: 'readDirectory: cookies stay valid while entries come and go',
    run: async (c) => {
      const names = await fill(c, 30);
      const seen: string[] = [];
      let cookie = 0;
      for (let round = 0, end = false; !end; round++) {
        const page = await c.fs.readDirectory(root, c.dir, cookie, { maxEntries: 4 });
        seen.push(...page.entries.map((entry) => entry.name.toString()));
        cookie = page.entries.at(-1)?.cookie ?? cookie;
        end = page.end;
        const last = seen.at(-1);
        // The entry that the cookie names goes, one comes, and one that was seen is renamed away and back.
        if (round < 5) {
          if (last !== undefined) await c.fs.unlink(root, c.dir, name(last));
          await c.file(`new-${round}`);
          const earlier = seen.at(-2) ?? '';
          await c.rename(earlier, `moved-${round}`);
        }
      }
      const listed = seen.filter((text) => text.startsWith('entry-'));
      assert.equal(new Set(listed).size, listed.length, 'no entry twice');
      assert.deepEqual([...listed].sort(), names, 'every entry that was there all the time');
    },
  },
  {
    name: 'readDirectory: attributes on demand',
    run: async (c) => {
      const f = await c.file('f', name('12345'));
      await c.mkdir('d');
      const page = await c.fs.readDirectory(root, c.dir, 0, { withAttributes: true });
      assert.equal(page.entries.length, 2);
      for (const entry of page.entries) {
        assert.deepEqual(entry.attributes, await c.attributes(entry.inode));
        if (entry.inode === f) assert.equal(entry.attributes?.size, 5);
      }
    },
  },
  {
    name: 'readDirectory while it is emptied: rm -r in pages',
    run: async (c) => {
      await fill(c, 25);
      let cookie = 0;
      for (let end = false; !end;) {
        const page = await c.fs.readDirectory(root, c.dir, cookie, { maxEntries: 6 });
        for (const entry of page.entries) await c.fs.unlink(root, c.dir, entry.name);
        cookie = page.entries.at(-1)?.cookie ?? cookie;
        end = page.end;
      }
      assert.deepEqual(await c.names(), []);
    },
  },
  {
    name: 'readDirectory needs r, lookup needs x',
    run: async (c) => {
      const d = await c.mkdir('d', 0o755);
      await c.file('f', undefined, { parent: d });
      await c.fs.setAttributes(root, d, { mode: 0o711 });
      await fails('EACCES', c.fs.readDirectory(alice, d, 0));
      await c.fs.lookup(alice, d, name('f'));
      await c.fs.setAttributes(root, d, { mode: 0o744 });
      assert.equal((await c.fs.readDirectory(alice, d, 0)).entries.length, 1);
      await fails('EACCES', c.fs.lookup(alice, d, name('f')));
    },
  },
];
