/** The checker checked: random work agrees between two models, and disagrees when one of them is made to lie. */
import t from 'tap';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { SeededRandom } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { FileSystem } from '../../../src/filesystem/filesystem.js';
import { ModelFileSystem } from '../../support/models/model-filesystem.js';
import { Actor } from '../workloads/actor.js';
import { compareTrees } from './final-check.js';

const STEPS = 300;

async function work(real: ModelFileSystem, seed: number): Promise<Map<string, number>> {
  const model = new ModelFileSystem();
  const node = { kind: 'directory', mode: 0o777 } as const;
  const make = async (fs: FileSystem) =>
    (await fs.makeNode(ROOT_CREDENTIALS, ROOT_INODE, Buffer.from('home'), node)).inode;
  const home = { real: await make(real), model: await make(model) };
  const outcomes = new Map<string, number>();
  const onOperation = (line: string): void => {
    const [, kind = ''] = /^end \S+ (\S+)/.exec(line) ?? [];
    const code = line.slice(line.lastIndexOf(': ') + 2);
    if (kind !== '') outcomes.set(`${kind} ${code}`, (outcomes.get(`${kind} ${code}`) ?? 0) + 1);
  };
  const random = new SeededRandom(seed);
  const clients = [real, new ModelFileSystem(real.state)];
  const actor = new Actor({ name: 'actor', random, clients, model, home, onOperation });
  for (let step = 0; step < STEPS; step++) await actor.step();
  await actor.handOver();
  await compareTrees(real, model);
  return outcomes;
}

t.test('two models agree, and the work reaches what it should', async (t) => {
  const all = new Map<string, number>();
  for (let seed = 1; seed <= 20; seed++) {
    for (const [kind, count] of await work(new ModelFileSystem(), seed)) all.set(kind, (all.get(kind) ?? 0) + count);
  }
  if (process.env['CAIRN_LOG'] !== undefined)
    t.comment(
      [...all]
        .sort()
        .map(([k, n]) => `${k} ${n}`)
        .join('\n'),
    );
  const kinds = ['create', 'mkdir', 'symlink', 'unlink', 'rmdir', 'rename', 'link', 'setattr', 'readdir', 'open'];
  for (const kind of [
    ...kinds,
    'write',
    'read',
    'ftruncate',
    'truncate',
    'fsync',
    'flush',
    'close',
    'xattr',
    'fallocate',
    'copy',
  ]) {
    t.ok((all.get(`${kind} ok`) ?? 0) >= 5, `${kind} succeeds now and then`);
  }
  for (const each of ['rename ENOTEMPTY', 'unlink EISDIR', 'create EEXIST', 'open ENOENT', 'unlink EACCES']) {
    t.ok(all.has(each), each);
  }
});

/** Lies that a file system could tell, each small. */
const LIES: Record<string, (fs: ModelFileSystem) => void> = {
  'a rename that does nothing': (fs) => {
    fs.rename = async () => undefined;
  },
  'an unlink that takes effect twice': (fs) => {
    const unlink = fs.unlink.bind(fs);
    fs.unlink = async (...args) => {
      await unlink(...args);
      await unlink(...args);
    };
  },
  'a write that is dropped now and then': (fs) => {
    let count = 0;
    const openAt = fs.openAt.bind(fs);
    fs.openAt = async (...args) => {
      const opened = await openAt(...args);
      const write = opened.file.write.bind(opened.file);
      opened.file.write = async (offset, bytes) => (++count % 7 === 0 ? bytes.length : write(offset, bytes));
      return opened;
    };
  },
  'a permission that is not checked': (fs) => {
    const unlink = fs.unlink.bind(fs);
    fs.unlink = (_credentials, parent, name) => unlink(ROOT_CREDENTIALS, parent, name);
  },
};

for (const [lie, plant] of Object.entries(LIES)) {
  t.test(`caught: ${lie}`, async (t) => {
    let caught = 0;
    for (let seed = 1; seed <= 10; seed++) {
      const real = new ModelFileSystem();
      plant(real);
      await work(real, seed).catch(() => caught++);
    }
    t.ok(caught >= 2, `by ${caught} of 10 seeds`);
  });
}
