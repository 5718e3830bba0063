/** The names by which the kernel may find files without asking (src/fuse/kernel/memory/told-names.ts). */
import t from 'tap';
import { inodeId } from '../../../src/core/ids.js';
import { MAX_OPEN_NAMES, MAX_TOLD_NAMES } from '../../../src/core/limits.js';
import { ToldNames } from '../../../src/fuse/kernel/memory/told-names.js';
import { ManualClock } from '../../support/fakes/manual-clock.js';

const ROOT = inodeId(1);
const FILE = inodeId(7);
const OTHER = inodeId(8);
const ENTRY_TIMEOUT_MS = 1_000;
const EXPIRED_MS = 3_001;

function setup(): { clock: ManualClock; names: ToldNames; of: (inode: typeof FILE) => string[] | undefined } {
  const clock = new ManualClock();
  const names = new ToldNames(clock);
  return { clock, names, of: (inode) => names.namesOf(inode)?.map(({ parent, name }) => `${parent}/${name}`) };
}

const named = (name: string): Buffer => Buffer.from(name);

t.test('a file has the names that were told, until the kernel asks again', async (t) => {
  const { clock, names, of } = setup();
  names.tell(ROOT, named('a'), FILE, ENTRY_TIMEOUT_MS);
  clock.advance(500);
  names.tell(ROOT, named('b'), FILE, ENTRY_TIMEOUT_MS);
  t.strictSame(of(FILE), ['1/a', '1/b']);
  clock.advance(EXPIRED_MS - 500);
  t.strictSame(of(FILE), ['1/b']);
  clock.advance(500);
  t.strictSame(of(FILE), []);
  names.tell(ROOT, named('c'), OTHER, ENTRY_TIMEOUT_MS);
  t.equal(names.size, 1, 'those whose time is over are forgotten');
});

t.test('a name that is told again counts from then on', async (t) => {
  const { clock, names, of } = setup();
  names.tell(ROOT, named('a'), FILE, ENTRY_TIMEOUT_MS);
  clock.advance(EXPIRED_MS - 2);
  names.tell(ROOT, named('a'), FILE, ENTRY_TIMEOUT_MS);
  clock.advance(EXPIRED_MS - 2);
  t.strictSame(of(FILE), ['1/a']);
  t.equal(names.size, 1);
});

t.test('a name that leads elsewhere is asked about for both files, as either answer may come last', async (t) => {
  const { names, of } = setup();
  names.tell(ROOT, named('a'), FILE, ENTRY_TIMEOUT_MS);
  names.tell(ROOT, named('a'), OTHER, ENTRY_TIMEOUT_MS);
  t.strictSame(of(FILE), ['1/a']);
  t.strictSame(of(OTHER), ['1/a']);
});

t.test('what the kernel removes or renames itself it does not believe any more', async (t) => {
  const { names, of } = setup();
  names.tell(ROOT, named('a'), FILE, ENTRY_TIMEOUT_MS);
  names.tell(ROOT, named('b'), OTHER, ENTRY_TIMEOUT_MS);
  names.renamed({ parent: ROOT, name: named('a') }, { parent: ROOT, name: named('b') }, false);
  t.strictSame(of(FILE), ['1/b']);
  t.strictSame(of(OTHER), []);
  names.tell(ROOT, named('c'), OTHER, ENTRY_TIMEOUT_MS);
  names.renamed({ parent: ROOT, name: named('b') }, { parent: ROOT, name: named('c') }, true);
  t.strictSame(of(FILE), ['1/c']);
  t.strictSame(of(OTHER), ['1/b']);
  names.removed(ROOT, named('c'));
  t.strictSame(of(FILE), []);
  t.equal(names.size, 1);
});

t.test('a file with more names than an open can ask about is looked up again', async (t) => {
  const { names, of } = setup();
  for (let link = 0; link <= MAX_OPEN_NAMES; link++) names.tell(ROOT, named(`link${link}`), FILE, ENTRY_TIMEOUT_MS);
  t.equal(of(FILE), undefined);
});

t.test(
  'names that were forgotten for want of room make every open of an unknown file a new look-up, for their time',
  async (t) => {
    const { clock, names, of } = setup();
    names.tell(ROOT, named('a'), FILE, ENTRY_TIMEOUT_MS);
    for (let i = 0; i < MAX_TOLD_NAMES; i++) names.tell(ROOT, named(`f${i}`), inodeId(100 + i), ENTRY_TIMEOUT_MS);
    t.equal(names.size, MAX_TOLD_NAMES);
    t.equal(of(FILE), undefined);
    t.strictSame(of(inodeId(100)), ['1/f0']);
    clock.advance(EXPIRED_MS);
    t.strictSame(of(FILE), []);
  },
);

t.test('files that come and go are not kept', async (t) => {
  const { names } = setup();
  const kept = 1_000;
  for (let i = 0; i < kept; i++) names.tell(ROOT, named(`kept${i}`), inodeId(1_000 + i), ENTRY_TIMEOUT_MS);
  for (let i = 0; i < 50_000; i++) {
    names.tell(ROOT, named('passing'), inodeId(10_000 + i), ENTRY_TIMEOUT_MS);
    names.removed(ROOT, named('passing'));
  }
  t.equal(names.size, kept);
  t.ok(names.held <= 4 * kept, `${names.held} are held for ${kept}`);
});
