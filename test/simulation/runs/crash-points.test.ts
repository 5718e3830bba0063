/**
 * P1, P6, P10: a program does each kind of operation once, and the master's process is killed, its machine loses power, or its
 * disk fails, at each call that it makes to its disk, one after another. What the next start finds is what was answered, or what was
 * flushed, record by record; and the program ends with the same tree as without any trouble.
 */
import assert from 'node:assert/strict';
import t from 'tap';
import { asCairnError } from '../../../src/core/errors.js';
import { ROOT_INODE } from '../../../src/core/ids.js';
import type { InodeId } from '../../../src/core/ids.js';
import type { ClusterFileSystem } from '../../../src/client/cluster-filesystem.js';
import { ROOT_CREDENTIALS as root } from '../../../src/filesystem/filesystem.js';
import type { FileSystem, OpenFile } from '../../../src/filesystem/filesystem.js';
import type { StateReader } from '../../../src/master/state/state.js';
import { auditState } from '../judges/audit.js';
import { seeds } from '../world/seeds.js';
import { StateHistory } from '../judges/state-history.js';
import { MASTER, World } from '../world/world.js';

const BOUNDS = { segmentBytes: 3_000, commitChanges: 24, transactionChanges: 9, commitDelayMs: 100 };
const FLAGS = { read: true, write: true };
const n = (text: string): Buffer => Buffer.from(text, 'latin1');

type Step = (fs: ClusterFileSystem) => Promise<unknown>;

/** Each step is whole by itself: it finds by name what it needs. */
function steps(): Step[] {
  const at = async (fs: FileSystem, path: string): Promise<InodeId> => {
    let inode = ROOT_INODE;
    for (const part of path.split('/').filter((each) => each !== ''))
      inode = (await fs.lookup(root, inode, n(part))).inode;
    return inode;
  };
  const place = async (fs: FileSystem, path: string): Promise<{ parent: InodeId; name: Buffer }> => {
    const slash = path.lastIndexOf('/');
    return { parent: await at(fs, path.slice(0, Math.max(0, slash))), name: n(path.slice(slash + 1)) };
  };
  const withFile = async (fs: FileSystem, path: string, work: (file: OpenFile) => Promise<unknown>): Promise<void> => {
    const { file } = await fs.open(root, await at(fs, path), FLAGS);
    await work(file);
    await file.close();
  };
  const mkdir =
    (path: string, mode = 0o755): Step =>
    async (fs) => {
      const { parent, name } = await place(fs, path);
      await fs.makeNode(root, parent, name, { kind: 'directory', mode });
    };
  const create =
    (path: string, text?: string): Step =>
    async (fs) => {
      const { parent, name } = await place(fs, path);
      const { file } = await fs.create(root, parent, name, { mode: 0o640, flags: FLAGS, exclusive: true });
      if (text !== undefined) await file.write(0, n(text));
      await file.close();
    };
  const rename =
    (from: string, to: string, flags = {}): Step =>
    async (fs) =>
      fs.rename(root, await place(fs, from), await place(fs, to), flags);
  const set =
    (path: string, changes: Parameters<FileSystem['setAttributes']>[2]): Step =>
    async (fs) =>
      fs.setAttributes(root, await at(fs, path), changes);
  const xattr =
    (path: string, name: string, value: string | undefined): Step =>
    async (fs) =>
      value === undefined
        ? fs.removeXattr(root, await at(fs, path), n(name))
        : fs.setXattr(root, await at(fs, path), n(name), n(value));
  return [
    mkdir('a'),
    mkdir('b', 0o2775),
    mkdir('a/c'),
    create('a/f', 'hello'),
    create('a/g'),
    create('a/\xff\x01', 'bytes'),
    async (fs) => fs.symlink(root, await at(fs, 'b'), n('s'), n('../a/f')),
    async (fs) => fs.makeNode(root, await at(fs, 'b'), n('fifo'), { kind: 'fifo', mode: 0o600 }),
    async (fs) => fs.makeNode(root, await at(fs, 'b'), n('dev'), { kind: 'blockDevice', mode: 0o600, rdev: 0x801 }),
    async (fs) => fs.link(root, await at(fs, 'a/f'), await at(fs, 'b'), n('f2')),
    xattr('a/f', 'user.x', 'value'.repeat(40)),
    xattr('a/f', 'user.empty', ''),
    xattr('a/c', 'trusted.y', '\x00\xff'),
    xattr('a/f', 'user.x', undefined),
    set('a/g', { mode: 0o4755 }),
    set('a/g', { uid: 7, gid: 8 }),
    set('a', { atime: { seconds: 5, nanoseconds: 6 }, mtime: { seconds: -7, nanoseconds: 8 } }),
    rename('a/g', 'b/h'),
    rename('b/h', 'a/f', { exchange: true }),
    create('a/k', 'to be replaced'),
    create('a/l', 'the newer one'),
    rename('a/l', 'a/k'),
    rename('a/c', 'b/d'),
    mkdir('b/e'),
    rename('b/d', 'b/e'),
    create('a/w'),
    rename('a/w', 'a/v', { whiteout: true }),
    (fs) => withFile(fs, 'a/k', async (file) => (await file.write(200_000, n('far')), file.sync())),
    (fs) => withFile(fs, 'a/k', (file) => file.truncate(100_000)),
    (fs) => withFile(fs, 'a/k', (file) => file.allocate(0, 300, { keepSize: true, punchHole: true })),
    (fs) => withFile(fs, 'a/k', (file) => file.allocate(0, 64 * 1024 * 1024, { keepSize: true, punchHole: true })),
    (fs) => withFile(fs, 'a/k', (file) => file.write(10, n('again'))),
    set('b/f2', { size: 3 }),
    async (fs) => {
      const { file } = await fs.open(root, await at(fs, 'b/f2'), { ...FLAGS, truncate: true });
      await file.write(0, n('cut and written'));
      await file.close();
    },
    async (fs) => {
      const { file, attributes } = await fs.createTemporary(root, await at(fs, 'a'), { mode: 0o600, flags: FLAGS });
      await file.write(0, n('was nameless'));
      await fs.link(root, attributes.inode, await at(fs, 'a'), n('named'));
      await file.close();
    },
    async (fs) => {
      const { file } = await fs.createTemporary(root, await at(fs, 'a'), { mode: 0o600, flags: FLAGS });
      await file.write(0, n('stays nameless'));
      assert.equal((await file.read(0, 99)).toString(), 'stays nameless');
      await file.close();
    },
    async (fs) => {
      const { parent, name } = await place(fs, 'a/gone');
      const { file } = await fs.create(root, parent, name, { mode: 0o600, flags: FLAGS });
      await file.write(0, n('open'));
      await fs.unlink(root, parent, name);
      assert.equal((await file.read(0, 99)).toString(), 'open');
      await file.close();
    },
    async (fs) => fs.unlink(root, await at(fs, 'b'), n('s')),
    async (fs) => fs.unlink(root, await at(fs, 'b'), n('fifo')),
    async (fs) => fs.removeDirectory(root, await at(fs, 'b'), n('e')),
    async (fs) => {
      const b = await at(fs, 'b');
      await Promise.all(
        Array.from({ length: 12 }, (_, i) => fs.makeNode(root, b, n(`many-${i}`), { kind: 'file', mode: 0o600 })),
      );
    },
    async (fs) => {
      const b = await at(fs, 'b');
      await Promise.all(
        Array.from({ length: 12 }, (_, i) =>
          i % 2 === 0
            ? fs.unlink(root, b, n(`many-${i}`))
            : fs.rename(root, { parent: b, name: n(`many-${i}`) }, { parent: b, name: n(`few-${i}`) }),
        ),
      );
    },
    async (fs) => fs.syncMetadata(),
  ];
}

/** What a client sees that has just come. */
async function tree(fs: FileSystem, inode: InodeId = ROOT_INODE): Promise<unknown[]> {
  const found: (readonly [string, ...unknown[]])[] = [];
  for (let cookie = 0; ;) {
    const page = await fs.readDirectory(root, inode, cookie, { maxEntries: 3 });
    for (const { name, inode: child, cookie: next } of page.entries) {
      cookie = next;
      const { mode, nlink, uid, gid, size, rdev, mtime } = await fs.getAttributes(child);
      const xattrs: string[] = [];
      for (const each of (await fs.listXattrs(root, child)).map((each) => each.toString()).sort())
        xattrs.push(each, (await fs.getXattr(root, child, n(each))).toString('hex'));
      const kind = mode & 0o170000;
      let inside: unknown = mtime.seconds < 1000 ? mtime : undefined;
      if (kind === 0o040000) inside = await tree(fs, child);
      else if (kind === 0o120000) inside = (await fs.readLink(root, child)).toString();
      else if (kind === 0o100000) {
        const { file } = await fs.open(root, child, { read: true, write: false });
        inside = (await file.read(0, 1_000_000)).toString('base64').slice(0, 300);
        await file.close();
      }
      found.push([
        name.toString('latin1'),
        mode.toString(8),
        nlink,
        uid,
        gid,
        kind === 0o040000 ? 0 : size,
        rdev,
        xattrs,
        inside,
      ]);
    }
    if (page.end) break;
  }
  return found.sort(([a], [b]) => (a < b ? -1 : 1));
}

/** What happens at one call of the master to its disk, or with one answer of it. `twice`: and in the start that follows, again. */
const KINDS = ['kill', 'kill twice', 'power', 'power twice', 'EIO', 'lost answer'] as const;
type Kind = (typeof KINDS)[number];

/** Every so many calls one is tried. */
const STRIDE = Number(process.env['CAIRN_STRIDE'] ?? 12);

interface Outcome {
  readonly calls: number;
  readonly tree: unknown[];
  readonly happened: string | undefined;
  /** What the store had at the end. */
  readonly stored: ReadonlyMap<string, Uint8Array>;
}

/** `at`: the call, counted from when all is up, at which `kind` happens; `again`: the call of the start, when it happens twice. */
async function run(kind: Kind, at: number, seed: number, again: number): Promise<Outcome> {
  const world = new World({ seed, chunkservers: 2, maxSkewMs: 0 });
  const history = new StateHistory();
  const uninstall = history.install(BOUNDS);
  let calls = -1;
  let happened: string | undefined;
  try {
    return await world.runReported(async () => {
      await world.startAll();
      const fs = await world.connect('client-1');
      await world.sleep(1_000);
      calls = 0;
      const disk = world.disk(MASTER);
      let starting = -1;
      const isPower = kind.startsWith('power');
      const down = (): Promise<unknown> => (isPower ? world.powerOff(MASTER) : world.kill(MASTER));
      const up = (): Promise<void> => (isPower ? world.powerOn(MASTER) : world.start(MASTER));
      const trouble = async (): Promise<void> => {
        history.note();
        history.demands = isPower ? 'flushed' : 'answered';
        await down();
        await world.sleep(300);
        if (kind.endsWith('twice')) {
          starting = again;
          await up();
          await world.sleep(300);
          if (starting >= 0) {
            starting = -1;
            return;
          }
        }
        await up();
      };
      world.network.onSend = (from, to) => {
        if (kind !== 'lost answer' || calls < 0 || from !== MASTER || to !== 'client-1' || calls++ !== at)
          return undefined;
        happened = 'an answer is lost';
        return 'lose';
      };
      disk.onCall = (label, path) => {
        if (starting >= 0 && starting-- === 0) {
          happened += ` and ${label} ${path}`;
          world.background(async () => {
            // The start that is under way is waited for by then.
            await world.sleep(0);
            if (history.opens > 1) history.note();
            else history.cutShort++;
            await down();
          });
          return undefined;
        }
        if (kind === 'lost answer') return undefined;
        if (calls < 0 || happened !== undefined || !path.startsWith('/log') || calls++ !== at) return undefined;
        happened = `${label} ${path}`;
        if (kind !== 'EIO') {
          world.background(trouble);
          return undefined;
        }
        world.background(async () => {
          while (world.isRunning(MASTER)) {
            history.note();
            await world.sleep(50);
          }
          await world.sleep(100);
          await world.start(MASTER);
        });
        return { failWith: 'EIO' };
      };
      for (const [index, step] of steps().entries()) {
        try {
          await step(fs);
        } catch (error) {
          // After a loss of power what was not synced may be gone.
          if (!isPower || happened === undefined)
            throw new Error(`step ${index} after ${happened}: ${asCairnError(error).message}`, { cause: error });
        }
      }
      if (kind === 'EIO' && happened !== undefined && history.opens < 2) await world.sleep(3_000);
      disk.onCall = undefined;
      const counted = calls;
      history.check();
      await world.sleep(1_000);
      const seen = await tree(await world.connect('client-2'));
      history.check();
      // And once more, as what was written since must be found as well.
      history.note();
      await world.kill(MASTER);
      await world.start(MASTER);
      history.check();
      await world.sleep(5_000);
      const stored = new Map<string, Uint8Array>();
      for (const { key, value } of world.store.snapshot()) if (value !== null) stored.set(key, value);
      return { calls: counted, tree: seen, happened, stored };
    });
  } finally {
    uninstall();
    world.stop();
  }
}

t.setTimeout(0);

for (const kind of KINDS) {
  t.test(`P1, P6, P10: ${kind}, at each call`, async (test) => {
    for (const seed of seeds(1)) {
      const undisturbed = await run(kind, Infinity, seed, 0);
      test.ok(undisturbed.calls > 100, `${undisturbed.calls} calls`);
      for (let at = seed % STRIDE; at < undisturbed.calls; at += STRIDE) {
        const { happened, tree: found } = await run(kind, at, seed, (at * 7) % 20);
        test.ok(happened !== undefined, `call ${at}: ${happened ?? 'nothing happened'}`);
        if (!kind.startsWith('power')) assert.deepEqual(found, undisturbed.tree, `call ${at}: ${happened}`);
      }
    }
  });
}

t.test('the audit misses each key that is not there', async (test) => {
  const { stored } = await run('kill', Infinity, 1, 0);
  const without = (missing: string): StateReader => ({
    get: (key) => (key === missing ? undefined : stored.get(key)),
    range: ({ start, end }) => [...stored].filter(([key]) => key >= start && key < end && key !== missing),
  });
  assert.deepEqual(auditState(without('')), []);
  const tables = new Set<string>();
  for (const key of stored.keys()) {
    const table = key.charAt(0);
    if (!'IDCXFKR'.includes(table)) continue;
    tables.add(table);
    if (auditState(without(key)).length === 0) test.fail(`a key of table ${table}`);
  }
  test.equal([...tables].sort().join(''), 'CDFIKRX');
});
