/** What a start takes a data directory for, by the name under which it was used last and by the notes of who met a failure. */
import t from 'tap';
import { DirectoryBoot } from '../../../src/chunkserver/disks/directory-boot.js';
import { CairnError } from '../../../src/core/errors.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import type { Logger } from '../../../src/core/logging/logger.js';
import { MemoryNotes } from '../../support/fakes/memory-notes.js';

const DISK = 'd1';

const bootOf = (
  bootNotes: MemoryNotes,
  { bootId = 'b', path = '/d', address = 'one:7000', logger = silentLogger } = {},
): DirectoryBoot => new DirectoryBoot({ bootNotes, bootId, path, address, logger });

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
  second.clear(second.count);
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
  booted.clear(booted.count);
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

t.test(
  'P1: a note by place is that of one server, where several have the same path in containers of their own',
  (t) => {
    const notes = new MemoryNotes();
    bootOf(notes).leave(undefined);
    const other = bootOf(notes, { address: 'other:7000' });
    t.ok(other.begin('b', 'd2'));
    other.clear(other.count);
    t.notOk(bootOf(notes).begin('b', DISK));
    t.end();
  },
);

t.test(
  'a note by place is not about a directory that nobody used, and follows a disk that is mounted elsewhere',
  (t) => {
    const notes = new MemoryNotes();
    bootOf(notes).leave(undefined);
    const fresh = bootOf(notes);
    t.notOk(fresh.begin(undefined, undefined));
    fresh.clear(fresh.count);
    t.equal(fresh.id, 'b');
    t.equal(notes.notes.size, 1, 'as on an empty mount point: the disk is mounted there later');
    const moved = bootOf(notes, { path: '/other' });
    t.notOk(moved.begin('b', DISK, '/d'));
    moved.clear(moved.count);
    t.equal(notes.notes.size, 0);
    t.end();
  },
);

t.test('a note of an earlier boot, or one that cannot be removed, does not stand for a new one', (t) => {
  const notes = new MemoryNotes();
  bootOf(notes, { bootId: 'a' }).leave(DISK);
  bootOf(notes).begin('b', DISK);
  const boot = bootOf(notes);
  t.ok(boot.begin('b', DISK));
  boot.leave(DISK);
  t.notOk(bootOf(notes).begin('b', DISK), 'it fails before its session is written');
  const half = Object.assign(new MemoryNotes(), {
    remove(this: MemoryNotes, name: string): void {
      this.notes.set(name, '{"bootId":"a"}');
      throw new CairnError('EROFS', 'one of another place stays');
    },
  });
  const next = bootOf(half);
  next.leave(DISK);
  next.clear(next.count);
  t.ok(bootOf(half).begin('b', DISK));
  next.leave(DISK);
  t.notOk(bootOf(half).begin('b', DISK));
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
  for (let i = 0; i < 3; i++) boot.leave('d2');
  boot.clear(boot.count);
  t.match(said, [/reboot the machine/, /cannot remove/, /cannot remove/]);
  t.end();
});
