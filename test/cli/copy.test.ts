import { mkdir, mkdtemp, readFile, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { copyAll } from '../../src/cli/trees/copy.js';
import { LocalTree } from '../../src/cli/trees/local-tree.js';
import { RemoteTree } from '../../src/cli/trees/remote-tree.js';
import { baseName, components, joinPath } from '../../src/cli/trees/tree.js';
import { ModelFileSystem } from '../support/models/model-filesystem.js';

const local = new LocalTree();

async function setUp(): Promise<{ directory: string; remote: RemoteTree; failures: string[] }> {
  const directory = await mkdtemp(join(tmpdir(), 'cairn-copy-'));
  return { directory, remote: new RemoteTree(new ModelFileSystem(), ROOT_CREDENTIALS), failures: [] };
}

async function text(tree: RemoteTree, path: string): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of tree.read(Buffer.from(path))) parts.push(part);
  return Buffer.concat(parts).toString();
}

const b = (path: string): Buffer => Buffer.from(path);

t.test('paths are bytes', (t) => {
  t.same(components(b('//a/./b/')).map(String), ['a', 'b']);
  t.equal(baseName(b('/a/b//')).toString(), 'b');
  t.equal(baseName(b('/')).length, 0);
  t.equal(joinPath(b('/'), b('a')).toString(), '/a');
  t.equal(joinPath(b('/a'), b('b')).toString(), '/a/b');
  t.end();
});

t.test('a tree goes into the cluster and comes back the same', async (t) => {
  const { directory, remote, failures } = await setUp();
  const options = { recursive: true, onFailure: (line: string) => failures.push(line) };
  await mkdir(join(directory, 'tree/sub'), { recursive: true });
  await writeFile(join(directory, 'tree/sub/file'), 'content', { mode: 0o640 });
  await writeFile(join(directory, 'tree/large'), Buffer.alloc(3_000_000, 7));
  await writeFile(Buffer.concat([b(join(directory, 'tree/')), Buffer.of(0xff, 0xfe)]), 'name of bytes');
  await symlink('sub/file', join(directory, 'tree/link'));

  await copyAll([{ tree: local, path: b(join(directory, 'tree')) }], { tree: remote, path: b('/') }, options);
  t.equal(await text(remote, '/tree/sub/file'), 'content');
  t.equal(await text(remote, '/tree/link'), 'content', 'symlinks are followed in paths');
  t.equal((await remote.stat(b('/tree/sub/file')))?.mode, 0o640);
  t.equal((await remote.stat(b('/tree/large')))?.size, 3_000_000);

  await copyAll([{ tree: remote, path: b('/tree') }], { tree: local, path: b(join(directory, 'back')) }, options);
  t.equal(await readFile(join(directory, 'back/sub/file'), 'utf8'), 'content');
  t.equal(await readlink(join(directory, 'back/link')), 'sub/file');
  t.equal((await stat(join(directory, 'back/large'))).size, 3_000_000);
  t.equal(
    (await readFile(Buffer.concat([b(join(directory, 'back/')), Buffer.of(0xff, 0xfe)]))).toString(),
    'name of bytes',
  );
  t.same(failures, []);
});

t.test('what cannot be copied is told, and the rest goes on', async (t) => {
  const { directory, remote, failures } = await setUp();
  const options = { recursive: false, onFailure: (line: string) => failures.push(line) };
  await mkdir(join(directory, 'dir'));
  await writeFile(join(directory, 'file'), 'x');
  const sources = ['missing', 'dir', 'file'].map((name) => ({ tree: local, path: b(join(directory, name)) }));
  await copyAll(sources, { tree: remote, path: b('/') }, options);
  t.equal(failures.length, 2);
  t.match(failures[0], /missing does not exist/);
  t.match(failures[1], /use -r/);
  t.equal(await text(remote, '/file'), 'x');
  await t.rejects(copyAll(sources, { tree: remote, path: b('/file') }, options), { code: 'ENOTDIR' });
});

t.test('symlinks: relative, absolute, through directories, in a circle', async (t) => {
  const { remote } = await setUp();
  await remote.makeDirectory(b('/a'), 0o755);
  await remote.makeDirectory(b('/a/b'), 0o755);
  await remote.makeSymlink(b('/to-b'), b('/a/b'));
  await remote.makeSymlink(b('/a/b/up'), b('..'));
  await remote.makeSymlink(b('/circle'), b('circle'));
  const a = (await remote.attributes(b('/a'))).inode;
  t.equal((await remote.attributes(b('/to-b/..'))).inode, a);
  t.equal((await remote.attributes(b('/to-b/up'))).inode, a);
  t.equal((await remote.lstat(b('/to-b')))?.kind, 'symlink');
  await t.rejects(remote.attributes(b('/circle')), { code: 'ELOOP' });
  t.equal(await remote.stat(b('/a/none/x')), undefined);
});

t.test("a target that ends in '/' is made a directory; what is missing on the way to it is named", async (t) => {
  const { directory, remote, failures } = await setUp();
  const options = { recursive: false, onFailure: (line: string) => failures.push(line) };
  const source = { tree: local, path: b(join(directory, 'file')) };
  await writeFile(join(directory, 'file'), 'content');
  await copyAll([source], { tree: remote, path: b('/new/') }, options);
  t.equal(await text(remote, '/new/file'), 'content');
  await copyAll([{ tree: remote, path: b('/new/file') }], { tree: local, path: b(`${directory}/back/`) }, options);
  t.equal(await readFile(join(directory, 'back/file'), 'utf8'), 'content');
  t.same(failures, []);
  await copyAll([source], { tree: remote, path: b('/new/no/where') }, options);
  t.match(failures, [/the directory cairn:\/new\/no\/ does not exist \(ENOENT\)$/]);
});
