/** What the client believes after its own changes: never older than the last of them that has returned. */
import t from 'tap';
import { AttributeCache } from '../../../src/client/inodes/attribute-cache.js';
import { KnownInodes } from '../../../src/client/inodes/known-inodes.js';
import { Holdings, Moments } from '../../../src/client/session/holdings.js';
import type { InodeAttributes } from '../../../src/client/session/wire-attributes.js';
import { inodeId } from '../../../src/core/ids.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const inode = inodeId(7);
const at = (change: number): InodeAttributes => ({
  ...{ inode, mode: 0o40755, nlink: 2, uid: 0, gid: 0, rdev: 0, size: 0, change, hasXattrs: false },
  ...{ hasAcl: false, allocatedBytes: 0, layoutVersion: 0, heldBy: inode, grant: 0 },
  ...{
    atime: { seconds: 0, nanoseconds: 0 },
    mtime: { seconds: 0, nanoseconds: 0 },
    ctime: { seconds: 0, nanoseconds: 0 },
  },
});
const known = (cache: AttributeCache): number | undefined => cache.getAttributes(inode)?.change;

t.test('answers to own changes in any order: the newest counts', async (t) => {
  const cache = new AttributeCache({ clock: new ManualClock() });
  const asked = cache.now();
  cache.putAttributes(at(1), asked);
  cache.putChanged(inode, at(3), asked);
  t.equal(known(cache), 3);
  cache.putChanged(inode, at(2), asked);
  t.equal(known(cache), 3, 'an answer that came late');
  cache.putChanged(inode, at(4), asked);
  t.equal(known(cache), 4);
});

t.test('a question from before an own change is not answered by what was known then', async (t) => {
  const cache = new AttributeCache({ clock: new ManualClock() });
  const asked = cache.now();
  cache.putChanged(inode, at(2), asked);
  cache.putAttributes(at(3), asked);
  t.equal(known(cache), 2, 'asked before the change was answered: refused');
});

t.test('an answer without attributes forgets them, and no late one brings them back', async (t) => {
  for (const forget of [
    (cache: AttributeCache) => cache.putChanged(inode, undefined, cache.now()),
    (cache: AttributeCache) => cache.dropAttributes(inode),
    (cache: AttributeCache) => cache.dropAllAttributes(),
  ]) {
    const cache = new AttributeCache({ clock: new ManualClock() });
    const asked = cache.now();
    cache.putAttributes(at(1), asked);
    forget(cache);
    t.equal(known(cache), undefined);
    cache.putChanged(inode, at(2), asked);
    t.equal(known(cache), undefined, 'the change that was forgotten may be newer');
    cache.putChanged(inode, at(3), cache.now());
    t.equal(known(cache), 3, 'asked afterwards');
  }
});

t.test('a directory has one name: what it was called before is not believed any more', async (t) => {
  const cache = new AttributeCache({ clock: new ManualClock() });
  const [parent, other] = [inodeId(1), inodeId(2)];
  const name = Buffer.from('d');
  cache.putDirectoryName(parent, name, inode, cache.now());
  t.equal(cache.getName(parent, name), inode);
  cache.putDirectoryName(other, name, inode, cache.now());
  t.equal(cache.getName(parent, name), undefined);
  t.equal(cache.getName(other, name), inode);
  cache.putDirectoryName(parent, name, inodeId(8), cache.now());
  cache.putDirectoryName(parent, Buffer.from('e'), inode, cache.now());
  t.equal(cache.getName(parent, name), inodeId(8), 'another has the name since');
});

t.test('the answer to an own change is not believed when a recall has overtaken it', async (t) => {
  const [clock, moments] = [new ManualClock(), new Moments()];
  const holdings = new Holdings(clock, moments, true);
  holdings.asking()();
  const cache = new AttributeCache({ clock, moments, holdings, ttlMs: 0 });
  const inodes = new KnownInodes({
    ...{ clock, cache, holdings, master: { call: () => Promise.reject(new Error('not to be asked')) } },
    ...{ onNewer: () => undefined, onChanged: () => undefined, onKeptRead: () => undefined, onCut: () => undefined },
  });
  const told = (change: number): InodeAttributes => ({ ...at(change), grant: 5 });
  inodes.changed(told(1), moments.now());
  t.equal(known(cache), 1);
  const asked = moments.now();
  cache.dropAttributes(inode);
  inodes.changed(told(2), asked);
  t.equal(known(cache), undefined, 'others are about to change it again');
  inodes.changed(told(3), moments.now());
  t.equal(known(cache), 3);
});

t.test('what an own change made of a name is known at once, unless others changed it since', async (t) => {
  const [clock, moments, parent, name] = [new ManualClock(), new Moments(), inodeId(1), Buffer.from('name')];
  const holdings = new Holdings(clock, moments, true);
  holdings.asking()();
  const cache = new AttributeCache({ clock, moments, holdings, ttlMs: 0 });
  holdings.take(parent, 3, cache.now());
  cache.changedName(parent, name, inode, cache.now(), 3);
  t.equal(cache.getName(parent, name), inode);
  cache.changedName(parent, name, 'nothing', cache.now(), 3);
  t.ok(cache.knowsAbsent(parent, name));
  cache.changedName(parent, name, inode, cache.now(), 0);
  t.equal(cache.getName(parent, name), undefined, 'the directory is not held, or others are about to change it');
  t.notOk(cache.knowsAbsent(parent, name));
  const asked = cache.now();
  cache.recallName(parent, name);
  cache.changedName(parent, name, inode, asked, 3);
  t.equal(cache.getName(parent, name), undefined, 'the recall overtook the answer');
});

t.test('what was made here is not taken for missing, also when others are about to change its directory', async (t) => {
  for (const isDirectory of [true, false]) {
    const [clock, moments, parent, name] = [new ManualClock(), new Moments(), inodeId(1), Buffer.from('name')];
    const holdings = new Holdings(clock, moments, true);
    holdings.asking()();
    const cache = new AttributeCache({ clock, moments, holdings, ttlMs: 0 });
    cache.putAbsent(parent, name, cache.now(), 3);
    t.ok(cache.knowsAbsent(parent, name));
    cache.madeName(parent, name, inode, cache.now(), 0, isDirectory);
    t.notOk(cache.knowsAbsent(parent, name));
    cache.putAbsent(parent, name, cache.now(), 3);
    const asked = cache.now();
    cache.madeName(parent, name, inode, asked, 3, isDirectory);
    t.equal(cache.getName(parent, name), inode);
    cache.putAbsent(parent, name, cache.now(), 3);
    if (isDirectory) cache.putDirectoryName(parent, name, inode, cache.now(), 0);
    else cache.putName(parent, name, inode, cache.now(), 0);
    t.notOk(cache.knowsAbsent(parent, name), 'nor what was found');
  }
});
