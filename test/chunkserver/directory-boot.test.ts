/** What a start takes a data directory for, by the name under which it was used last and by the notes of who met a failure. */
import t from 'tap';
import { DirectoryBoot } from '../../src/chunkserver/disks/directory-boot.js';
import { CairnError } from '../../src/core/errors.js';
import { silentLogger } from '../../src/core/logging/logger.js';
import type { Logger } from '../../src/core/logging/logger.js';
import { MemoryNotes } from '../support/memory-notes.js';

const DISK = 'd1';

const bootOf = (bootNotes: MemoryNotes, { bootId = 'b', path = '/d', logger = silentLogger } = {}): DirectoryBoot =>
  new DirectoryBoot({ bootNotes, bootId, path, logger });

t.test('a name lasts until the machine boots, or a failure is noted', (t) => {
  const notes = new MemoryNotes();
  const first = bootOf(notes);
  t.equal(first.begin(undefined, undefined), false, 'a directory that nobody used');
  t.equal(first.id, 'b');
  t.ok(bootOf(notes).begin('b', DISK), 'after a kill');
  for (const other of ['c', 'b2', 'b/', 'b/x', 'b/0', 'b/-1', 'b/1.5', 7, null])
    t.notOk(bootOf(notes).begin(other, DISK));
  first.leave(DISK);
  const second = bootOf(notes);
  t.notOk(second.begin('b', DISK), 'after a failure');
  t.equal(second.id, 'b/1');
  t.equal(bootOf(notes).begin('b', DISK), false, 'nor when that start came to nothing');
  second.finish();
  t.equal(notes.notes.size, 0);
  const third = bootOf(notes);
  t.ok(third.begin('b/1', DISK), 'after a kill');
  t.equal(third.id, 'b/1');
  third.leave(DISK);
  const fourth = bootOf(notes);
  t.notOk(fourth.begin('b/1', DISK));
  t.equal(fourth.id, 'b/2');
  const booted = bootOf(notes, { bootId: 'c' });
  t.notOk(booted.begin('b/1', DISK));
  t.equal(booted.id, 'c', 'a note of an earlier boot says nothing');
  booted.finish();
  t.equal(notes.notes.size, 0, 'and goes');
  t.end();
});

t.test('a disk that does not tell its id is known by its place', (t) => {
  const notes = new MemoryNotes();
  bootOf(notes).leave(undefined);
  t.ok(bootOf(notes, { path: '/other' }).begin('b', 'd2'));
  t.notOk(bootOf(notes).begin('b', DISK));
  t.end();
});

t.test('a probe takes back what was noted before it began', (t) => {
  const notes = new MemoryNotes();
  const boot = bootOf(notes);
  boot.leave(DISK);
  const { count } = boot;
  boot.leave(DISK);
  boot.clear(count);
  t.equal(notes.notes.size, 1, 'another failure came meanwhile');
  boot.clear(boot.count);
  t.equal(notes.notes.size, 0);
  boot.leave(DISK);
  t.equal(notes.notes.size, 1, 'and a later one is noted again');
  t.end();
});

t.test('what cannot be read may be anything, and what cannot be written or removed is said', (t) => {
  const notes = new MemoryNotes();
  bootOf(notes).leave(DISK);
  const [name = ''] = notes.notes.keys();
  for (const text of ['', '{"bootId":', '7', 'null', '{}', '{"bootId":7}']) {
    notes.notes.set(name, text);
    t.notOk(bootOf(notes).begin('b', DISK), text);
  }
  const said: string[] = [];
  const logger: Logger = { ...silentLogger, error: (_, message) => void said.push(message) };
  const fail = (): never => {
    throw new CairnError('EACCES', 'no');
  };
  const broken = Object.assign(new MemoryNotes(), { read: fail, write: fail, remove: fail });
  const boot = bootOf(broken, { logger });
  t.notOk(boot.begin('b', DISK));
  boot.leave('d2');
  boot.finish();
  t.match(said, [/reboot the machine/, /cannot remove/, /cannot remove/]);
  t.end();
});
