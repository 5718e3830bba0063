/** What a recall makes a client forget, and what it does not. */
import t from 'tap';
import { AttributeCache } from '../../../src/client/inodes/attribute-cache.js';
import { Listings } from '../../../src/client/inodes/listings.js';
import { Recalls } from '../../../src/client/inodes/recalls.js';
import { WholeDirectories } from '../../../src/client/inodes/whole-directories.js';
import { Holdings, Moments } from '../../../src/client/session/holdings.js';
import type { InodeAttributes } from '../../../src/client/session/wire-attributes.js';
import { inodeId, type InodeId } from '../../../src/core/ids.js';
import { HOLDING_VALID_MS } from '../../../src/core/limits.js';
import { silentLogger } from '../../../src/core/logging/logger.js';
import { deferred } from '../../../src/core/sync.js';
import type { DirectoryPage, Recalled } from '../../../src/filesystem/filesystem.js';
import type { Recall } from '../../../src/protocol/generated/messages.js';
import type { RequestContext } from '../../../src/protocol/rpc.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const [DIRECTORY, FILE, OTHER] = [inodeId(7), inodeId(8), inodeId(9)];
const NAME = Buffer.from('name');
const MISSING = Buffer.from('missing');
const TIME = { seconds: 0, nanoseconds: 0 };
const QUERY = { inode: DIRECTORY, cookie: 0, maxEntries: 10, withAttributes: false };
const PAGE: DirectoryPage = {
  entries: [{ name: NAME, inode: FILE, kind: 'file', cookie: 1 }],
  ...{ end: true, parent: inodeId(1), nextCookie: 2 },
};

const told = (inode: InodeId, heldBy: InodeId, grant: number, change = 1): InodeAttributes => ({
  ...{ inode, mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 0, allocatedBytes: 0, change },
  ...{ atime: TIME, mtime: TIME, ctime: TIME, layoutVersion: 1, hasAcl: false, hasXattrs: false, heldBy, grant },
});

function make() {
  const [clock, moments] = [new ManualClock(), new Moments()];
  const holdings = new Holdings(clock, moments, true);
  holdings.asking()();
  const cache = new AttributeCache({ clock, moments, holdings, ttlMs: 0 });
  const listings = new Listings(holdings, moments);
  const whole = new WholeDirectories(holdings);
  const recalls = new Recalls({ holdings, cache, listings, whole, logger: silentLogger, inodes: () => undefined });
  const learn = (): void => {
    const asked = moments.now();
    cache.putAttributes(told(DIRECTORY, DIRECTORY, 1), asked);
    cache.putAttributes(told(FILE, DIRECTORY, 1), asked);
    cache.putAttributes(told(OTHER, OTHER, 2), asked);
    cache.putName(DIRECTORY, NAME, FILE, asked, 1);
    cache.putAbsent(DIRECTORY, MISSING, asked, 1);
  };
  const list = (): Promise<unknown> =>
    listings.asking([DIRECTORY], () =>
      Promise.resolve([{ query: QUERY, page: PAGE, holding: holdings.take(DIRECTORY, 1, moments.now()) }]),
    );
  const recall = (item: Partial<Recall>): ReturnType<typeof recalls.handlers.recall> => {
    const empty = { inode: DIRECTORY, whole: false, self: false, names: [], attributes: [], contents: [] };
    return recalls.handlers.recall({ items: [{ ...empty, ...item }] }, {} as RequestContext);
  };
  const known = (): Record<string, boolean> => ({
    directory: cache.getAttributes(DIRECTORY) !== undefined,
    file: cache.getAttributes(FILE) !== undefined,
    other: cache.getAttributes(OTHER) !== undefined,
    name: cache.getName(DIRECTORY, NAME) === FILE,
    missing: cache.knowsAbsent(DIRECTORY, MISSING),
    listing: listings.get(QUERY) !== undefined,
  });
  return { clock, moments, cache, holdings, listings, whole, recalls, learn, list, recall, known };
}

const ALL = { directory: true, file: true, other: true, name: true, missing: true, listing: true };

t.test('a recall takes what it names, and nothing else', async (t) => {
  for (const [item, gone] of [
    [{ names: [NAME] }, { name: false }],
    [{ names: [MISSING] }, { missing: false }],
    [{ self: true }, { directory: false, listing: false }],
    [{ attributes: [FILE] }, { file: false }],
    [{ contents: [FILE] }, { file: false }],
    [{ inode: OTHER, whole: true }, { other: false }],
    [{ whole: true }, { directory: false, file: false, name: false, missing: false, listing: false }],
  ] as const) {
    const { learn, list, recall, known } = make();
    learn();
    await list();
    t.same(known(), ALL);
    await recall(item as Partial<Recall>);
    t.same(known(), { ...ALL, ...gone }, JSON.stringify(gone));
  }
});

t.test('what was asked for before a recall is not taken in after it', async (t) => {
  const { moments, cache, holdings, listings, recall, known } = make();
  const asked = moments.now();
  cache.putAttributes(told(OTHER, DIRECTORY, 1), asked);
  const page = deferred<DirectoryPage>();
  const listing = listings.asking([DIRECTORY], async () => [
    { query: QUERY, page: await page.promise, holding: holdings.take(DIRECTORY, 1, asked) },
  ]);
  await recall({ self: true, names: [NAME, MISSING], attributes: [FILE] });
  cache.putAttributes(told(DIRECTORY, DIRECTORY, 1), asked);
  cache.putAttributes(told(FILE, DIRECTORY, 1), asked);
  cache.putName(DIRECTORY, NAME, FILE, asked, 1);
  cache.putAbsent(DIRECTORY, MISSING, asked, 1);
  page.resolve(PAGE);
  await listing;
  t.same(known(), { directory: false, file: false, other: true, name: false, missing: false, listing: false });
});

t.test('under no grant nothing is kept, and what was known of it goes', async (t) => {
  const { moments, cache, learn, known } = make();
  learn();
  cache.putAttributes(told(FILE, FILE, 0, 2), moments.now());
  cache.putName(DIRECTORY, NAME, OTHER, moments.now(), 0);
  t.equal(known().file, false);
  t.equal(known().name, false);
});

t.test('nothing is believed while the session may have been given up, and again when it was not', async (t) => {
  const { clock, cache, holdings, learn, known } = make();
  learn();
  t.equal(cache.nameMs(DIRECTORY, NAME, FILE), HOLDING_VALID_MS);
  t.equal(cache.nameMs(DIRECTORY, NAME, OTHER), 0);
  t.equal(cache.nameMs(DIRECTORY, MISSING, undefined), HOLDING_VALID_MS);
  t.equal(cache.attributesMs(FILE, 1), HOLDING_VALID_MS);
  t.equal(cache.attributesMs(FILE, 2), 0);
  clock.advance(HOLDING_VALID_MS);
  t.same(known(), { directory: false, file: false, other: false, name: false, missing: false, listing: false });
  t.equal(cache.nameMs(DIRECTORY, NAME, FILE), 0);
  holdings.asking()();
  t.same(known(), { ...ALL, listing: false });
});

t.test('the master is answered when whoever was told more has forgotten it', async (t) => {
  const { recalls, learn, recall, known } = make();
  learn();
  const heard: (readonly Recalled[])[] = [];
  const forgotten = deferred<void>();
  recalls.watchRecalls((recalled) => {
    t.equal(known().name, false, 'here it is forgotten first');
    heard.push(recalled);
    return forgotten.promise;
  });
  let isAnswered = false;
  const answer = Promise.resolve(recall({ self: true, names: [NAME], contents: [FILE] })).then(() => {
    isAnswered = true;
  });
  await new Promise(setImmediate);
  t.equal(isAnswered, false);
  t.same(heard, [[{ inode: DIRECTORY, whole: false, names: [NAME], attributes: [DIRECTORY], contents: [FILE] }]]);
  forgotten.resolve();
  await answer;
  recalls.watchRecalls(() => Promise.reject(new Error('planted')));
  await t.rejects(Promise.resolve(recall({ self: true })), 'who did not forget does not answer');
});

t.test('listings are bounded, all together', async (t) => {
  const { holdings, moments } = make();
  const listings = new Listings(holdings, moments, 10);
  for (let n = 1; n <= 20; n++) {
    const inode = inodeId(n);
    const holding = holdings.take(inode, n, moments.now());
    await listings.asking([inode], () => Promise.resolve([{ query: { ...QUERY, inode }, page: PAGE, holding }]));
  }
  const kept = Array.from({ length: 20 }, (_, n) => listings.get({ ...QUERY, inode: inodeId(n + 1) }));
  t.same(
    kept.map((page) => page !== undefined),
    [...Array<boolean>(15).fill(false), ...Array<boolean>(5).fill(true)],
    'each is an entry, and a page',
  );
});

t.test('directories that follow those which were listed are asked for ahead, once', async (t) => {
  const { holdings, listings, moments } = make();
  const [parent, names] = [inodeId(100), Array.from({ length: 20 }, (_, n) => inodeId(200 + n))];
  const listed = (inode: InodeId, kinds: readonly InodeId[]) => ({
    query: { ...QUERY, inode },
    page: {
      ...PAGE,
      entries: kinds.map((child, n) => ({ name: NAME, inode: child, kind: 'directory' as const, cookie: n + 1 })),
    },
    holding: holdings.take(inode, inode, moments.now()),
  });
  const list = (...inodes: InodeId[]): Promise<unknown> =>
    listings.asking(inodes, () => Promise.resolve(inodes.map((inode) => listed(inode, inode === parent ? names : []))));
  const [first, second, third] = names as [InodeId, InodeId, InodeId];
  t.same(listings.next(parent, second), [], 'nothing is known of it');
  await list(parent);
  t.same(listings.next(parent, first), [], 'it may be the only one that is wanted');
  t.same(listings.next(parent, second), [], 'the one before was not');
  await list(first);
  const ahead = listings.next(parent, second);
  t.same(ahead, names.slice(2, 10));
  await list(second, ...ahead);
  t.same(listings.next(parent, third), names.slice(10, 11), 'what is there is not asked for again');
  t.same(listings.next(parent, inodeId(206)), [], 'what was told ahead was not read yet');
  t.ok(listings.get({ ...QUERY, inode: third }));
  holdings.end(parent);
  t.same(listings.next(parent, third), [], 'its listing may be another by now');
});

t.test('of a directory that is known whole, a name that is not in it is missing', async (t) => {
  const { clock, holdings, whole, recall, moments } = make();
  const holding = holdings.take(DIRECTORY, 1, moments.now());
  if (holding === undefined) throw new Error('not taken');
  t.equal(whole.lacks(DIRECTORY, MISSING), undefined, 'not known');
  whole.put(DIRECTORY, [NAME], holding);
  t.equal(whole.lacks(DIRECTORY, MISSING), holding);
  t.equal(whole.lacks(DIRECTORY, NAME), undefined);
  const making = deferred<void>();
  const made = whole.adding(DIRECTORY, MISSING, () => making.promise);
  t.equal(whole.lacks(DIRECTORY, MISSING), undefined, 'it is being made');
  whole.put(DIRECTORY, [NAME], holding);
  t.equal(whole.lacks(DIRECTORY, MISSING), undefined, 'also if a listing did not see it');
  making.resolve();
  await made;
  whole.put(DIRECTORY, [NAME], holding);
  const other = Buffer.from('other');
  await recall({ names: [MISSING] });
  t.equal(whole.lacks(DIRECTORY, MISSING), undefined, 'others are about to make it');
  t.equal(whole.lacks(DIRECTORY, other), holding);
  clock.advance(HOLDING_VALID_MS);
  t.equal(whole.lacks(DIRECTORY, other), undefined, 'the session may have been given up');
  holdings.asking()();
  t.equal(whole.lacks(DIRECTORY, other), holding);
  await recall({ whole: true });
  t.equal(whole.lacks(DIRECTORY, other), undefined);
});

t.test('names of whole directories are bounded, all together', async (t) => {
  const { holdings, moments } = make();
  const whole = new WholeDirectories(holdings, 10);
  for (let n = 1; n <= 8; n++) {
    const holding = holdings.take(inodeId(n), n, moments.now());
    if (holding !== undefined) whole.put(inodeId(n), [NAME], holding);
  }
  const known = (): number =>
    Array.from({ length: 8 }, (_, n) => whole.lacks(inodeId(n + 1), MISSING)).filter(Boolean).length;
  t.equal(known(), 5);
  for (let n = 0; n < 20; n++) whole.mayExist(inodeId(8), Buffer.from(`name ${n}`));
  t.equal(known(), 0, 'one that is too large is not known');
});
