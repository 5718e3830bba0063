import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { NodeBootNotes } from '../../src/core/disk/node-boot-notes.js';

function places(test: Test, count: number): string[] {
  const directory = mkdtempSync(join(tmpdir(), 'cairn-boot-notes-'));
  test.teardown(() => rmSync(directory, { recursive: true }));
  return Array.from({ length: count }, (_, i) => join(directory, `place-${i}`));
}

t.test('a note is there for another process, in each place, until it is removed', async (t) => {
  const both = places(t, 2);
  const notes = new NodeBootNotes({ lasting: both });
  t.same(notes.read('a'), [], 'none, and no place either');
  notes.remove('a');
  notes.write('a', 'first');
  notes.write('a', 'second');
  notes.write('b', 'of another');
  t.same(new NodeBootNotes({ lasting: both }).read('a'), ['second', 'second']);
  for (const place of both) {
    t.equal(statSync(place).mode & 0o777, 0o700);
    t.equal(statSync(join(place, 'a')).mode & 0o777, 0o600);
    t.same(readdirSync(place).sort(), ['a', 'b'], 'nothing else is left');
  }
  notes.remove('a');
  t.same(notes.read('a'), []);
  t.same(notes.read('b'), ['of another', 'of another']);
});

t.test('one place is enough, and without any it says so', async (t) => {
  const [good = '', bad = ''] = places(t, 2);
  writeFileSync(bad, 'a file is here');
  const notes = new NodeBootNotes({ lasting: [bad, good] });
  notes.write('a', 'text');
  t.same(notes.read('a'), ['text']);
  notes.remove('a');
  t.same(notes.read('a'), []);
  t.throws(() => new NodeBootNotes({ lasting: [bad, join(bad, 'below')] }).write('a', 'text'), { code: 'EEXIST' });
});

t.test('a spare place, which may hang, is written to when no other one takes the note', async (t) => {
  const [good = '', bad = '', spare = ''] = places(t, 3);
  writeFileSync(bad, 'a file is here');
  new NodeBootNotes({ lasting: [bad, good], spare: [spare] }).write('a', 'text');
  t.notOk(existsSync(spare));
  const notes = new NodeBootNotes({ lasting: [bad], spare: [spare] });
  notes.write('a', 'text');
  t.same(notes.read('a'), ['text']);
  notes.remove('a');
  t.same(readdirSync(spare), []);
  t.throws(() => new NodeBootNotes({ lasting: [bad], spare: [join(bad, 'below')] }).write('a', 'text'), {
    code: 'EEXIST',
  });
});

t.test('a place that others may write to is none, nor is a link to one', async (t) => {
  const [open = '', link = '', own = ''] = places(t, 3);
  mkdirSync(open);
  chmodSync(open, 0o777);
  writeFileSync(join(open, 'a'), 'planted');
  mkdirSync(own, { mode: 0o700 });
  writeFileSync(join(own, 'a'), 'behind a link');
  symlinkSync(own, link);
  const notes = new NodeBootNotes({ lasting: [open, link] });
  t.same(notes.read('a'), []);
  t.throws(() => notes.write('a', 'text'), { code: 'EACCES' });
  notes.remove('a');
  t.same(readdirSync(open), ['a'], 'what others have there stays');
});

t.test('a note that cannot be read is no missing note', async (t) => {
  const [place = ''] = places(t, 1);
  mkdirSync(join(place, 'a'), { recursive: true, mode: 0o700 });
  t.throws(() => new NodeBootNotes({ lasting: [place] }).read('a'), { code: 'EISDIR' });
});

t.test('by default the places are for run-time state, of this user alone', async (t) => {
  const notes = new NodeBootNotes();
  const name = `test-${process.pid}`;
  t.teardown(() => notes.remove(name));
  notes.write(name, 'text');
  t.ok(notes.read(name).length >= 1);
});
