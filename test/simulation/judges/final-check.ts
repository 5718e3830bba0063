/** What must hold of a cluster at rest: the whole tree equals the model's, replicas are identical, none is stale. */
import assert from 'node:assert/strict';
import { ROOT_INODE } from '../../../src/core/ids.js';
import { VERSION_JUMP } from '../../../src/core/limits.js';
import type { InodeId } from '../../../src/core/ids.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { Attributes, ChunkPlacement, DirectoryEntry, FileSystem } from '../../../src/filesystem/filesystem.js';
import { equalBytes } from '../../conformance/case.js';
import { auditState } from './audit.js';
import { DATA_WINDOWS, equalAttributes } from '../workloads/actor.js';
import { Inspector } from '../world/inspector.js';
import type { TreeFile } from '../world/inspector.js';
import type { World } from '../world/world.js';

/** Compares everything below the roots, but entries of the root in `ignore`. Returns the files of `real`. */
export async function compareTrees(
  real: FileSystem,
  model: FileSystem,
  ignore: ReadonlySet<string> = new Set(),
): Promise<TreeFile[]> {
  const files: TreeFile[] = [];
  const seen = new Set<InodeId>();
  const walk = async (path: string, realInode: InodeId, modelInode: InodeId): Promise<void> => {
    const [realEntries, modelEntries] = [await list(real, realInode), await list(model, modelInode)];
    if (path === '') for (const name of ignore) realEntries.delete(name);
    assert.deepEqual([...realEntries.keys()].sort(), [...modelEntries.keys()].sort(), `entries of ${path}/`);
    for (const [name, modelEntry] of modelEntries) {
      const realEntry = realEntries.get(name) ?? assert.fail(name);
      const at = `${path}/${name}`;
      assert.equal(realEntry.kind, modelEntry.kind, `kind of ${at}`);
      const attributes = await real.getAttributes(realEntry.inode);
      try {
        equalAttributes(attributes, await model.getAttributes(modelEntry.inode));
      } catch (error) {
        throw new Error(`attributes of ${at}: ${String(error)}`, { cause: error });
      }
      await compareXattrs(real, model, { at, real: realEntry.inode, model: modelEntry.inode });
      if (realEntry.kind === 'directory') await walk(at, realEntry.inode, modelEntry.inode);
      else if (realEntry.kind === 'symlink') {
        assert.deepEqual(
          await real.readLink(ROOT_CREDENTIALS, realEntry.inode),
          await model.readLink(ROOT_CREDENTIALS, modelEntry.inode),
        );
      } else if (realEntry.kind === 'file' && !seen.has(realEntry.inode)) {
        seen.add(realEntry.inode);
        await compareContent(real, model, { at, real: realEntry, model: modelEntry, attributes });
        files.push({ path: at, inode: realEntry.inode, size: attributes.size });
      }
    }
  };
  await walk('', ROOT_INODE, ROOT_INODE);
  return files;
}

/** The files directly in these directories of the root, whatever is in them. */
export async function filesOf(fs: FileSystem, directories: ReadonlySet<string>): Promise<TreeFile[]> {
  const files: TreeFile[] = [];
  const inRoot = await list(fs, ROOT_INODE);
  for (const directory of directories) {
    const entry = inRoot.get(directory);
    if (entry === undefined) continue;
    for (const [name, { inode, kind }] of await list(fs, entry.inode)) {
      if (kind !== 'file') continue;
      files.push({ path: `/${directory}/${name}`, inode, size: (await fs.getAttributes(inode)).size });
    }
  }
  return files;
}

async function list(fs: FileSystem, directory: InodeId): Promise<Map<string, DirectoryEntry>> {
  const entries = new Map<string, DirectoryEntry>();
  for (let cookie = 0, end = false; !end;) {
    const page = await fs.readDirectory(ROOT_CREDENTIALS, directory, cookie);
    for (const entry of page.entries) entries.set(entry.name.toString('latin1'), entry);
    cookie = page.entries.at(-1)?.cookie ?? cookie;
    end = page.end;
  }
  return entries;
}

async function compareXattrs(
  real: FileSystem,
  model: FileSystem,
  node: { readonly at: string; readonly real: InodeId; readonly model: InodeId },
): Promise<void> {
  const names = (await model.listXattrs(ROOT_CREDENTIALS, node.model)).map(String).sort();
  assert.deepEqual(
    (await real.listXattrs(ROOT_CREDENTIALS, node.real)).map(String).sort(),
    names,
    `xattrs of ${node.at}`,
  );
  for (const name of names) {
    const value = await model.getXattr(ROOT_CREDENTIALS, node.model, Buffer.from(name));
    equalBytes(await real.getXattr(ROOT_CREDENTIALS, node.real, Buffer.from(name)), value, `${name} of ${node.at}`);
  }
}

async function compareContent(
  real: FileSystem,
  model: FileSystem,
  file: {
    readonly at: string;
    readonly real: DirectoryEntry;
    readonly model: DirectoryEntry;
    readonly attributes: Attributes;
  },
): Promise<void> {
  const flags = { read: true, write: false };
  const realFile = (await real.open(ROOT_CREDENTIALS, file.real.inode, flags)).file;
  const modelFile = (await model.open(ROOT_CREDENTIALS, file.model.inode, flags)).file;
  for (const { start, length } of DATA_WINDOWS) {
    if (start > file.attributes.size) continue;
    equalBytes(
      await realFile.read(start, length),
      await modelFile.read(start, length),
      `content of ${file.at} (inode ${file.real.inode}) from ${start}`,
    );
  }
  await realFile.close();
  await modelFile.close();
}

/**
 * P4: every replica at the current version has the same bytes and length. P9: no other server serves the chunk at that
 * version, and none serves an older one.
 */
export async function checkReplicas(
  world: World,
  fs: FileSystem,
  files: readonly TreeFile[],
  { mayBeLost }: { readonly mayBeLost: boolean } = { mayBeLost: false },
): Promise<number> {
  const inspector = await Inspector.connect(world);
  let checked = 0;
  for (const file of files) {
    for (const chunk of await inspector.chunks(fs, file)) {
      checked++;
      if (mayBeLost && chunk.replicas.length === 0) continue;
      await checkChunk(inspector, file.path, chunk, mayBeLost);
    }
  }
  inspector.close();
  return checked;
}

async function checkChunk(
  inspector: Inspector,
  path: string,
  chunk: ChunkPlacement,
  mayBeLost: boolean,
): Promise<void> {
  const what = `chunk ${chunk.index} (handle ${chunk.handle}, version ${chunk.version}) of ${path}`;
  assert.ok(chunk.replicas.length > 0, `${what} has no live replica`);
  const members = new Set(chunk.replicas.map((replica) => replica.address));
  let first: { address: string; content: Buffer[] } | undefined;
  for (const address of inspector.peers.keys()) {
    const answer = await inspector.read(address, chunk);
    // Blocks that were lost are lost on every member (P4).
    const content = mayBeLost && answer === 'CORRUPT' ? [Buffer.from(answer)] : answer;
    if (!members.has(address)) {
      assert.ok(typeof content === 'string', `P9: ${address} serves ${what} and is no member`);
      continue;
    }
    if (typeof content === 'string') assert.fail(`${address} does not serve ${what}: ${content}`);
    first ??= { address, content };
    for (const [at, bytes] of content.entries()) {
      const other = first.content[at] ?? Buffer.alloc(0);
      equalBytes(bytes, other, `P4: ${what} at ${address} and at ${first.address}, window ${at}`);
    }
  }
}

/** A minute in which nothing happens at all: no recovery, no copy, and hardly a line in any log. */
const QUIET_CHECK_MS = 60_000;
const MAX_QUIET_LINES = 60;
/** Versions of a chunk come from recoveries: so many of one are no accidents any more. */
const MAX_RECOVERIES = 200;
/** Lines that one process may log in a run, all its lives together. */
const MAX_LOG_LINES = 20_000;

/** Nothing repeats for ever: a cluster at rest does nothing, and none of its processes logs without a bound. */
export async function demandQuiet(world: World, fs: FileSystem): Promise<void> {
  const versions = async (): Promise<Map<number, number>> => {
    const inspector = await Inspector.connect(world);
    const found = new Map<number, number>();
    for (const file of await allFiles(fs)) {
      for (const chunk of await inspector.chunks(fs, file)) found.set(chunk.handle, chunk.version);
    }
    inspector.close();
    return found;
  };
  const before = await versions();
  for (const [handle, version] of before) {
    assert.ok(
      version % VERSION_JUMP <= MAX_RECOVERIES,
      `chunk ${handle} is at version ${version}: it was recovered time and again`,
    );
  }
  const lines = new Map(world.logLines);
  await world.sleep(QUIET_CHECK_MS);
  assert.deepEqual([...(await versions())], [...before], 'versions of chunks at rest');
  for (const [name, count] of world.logLines) {
    assert.ok(count < MAX_LOG_LINES, `${name} logged ${count} lines`);
    const quiet = count - (lines.get(name) ?? 0);
    assert.ok(quiet <= MAX_QUIET_LINES, `${name} logged ${quiet} lines in ${QUIET_CHECK_MS} ms at rest`);
  }
  // At rest the log has nothing that the store does not have.
  assert.deepEqual(auditState(world.store), [], "the tables of the master's state");
}

/** Every file of the tree, once. */
export async function allFiles(fs: FileSystem): Promise<TreeFile[]> {
  const files: TreeFile[] = [];
  const seen = new Set<InodeId>();
  const walk = async (directory: InodeId, at: string): Promise<void> => {
    for (const [name, { inode, kind }] of await list(fs, directory)) {
      const path = `${at}/${name}`;
      if (kind === 'directory') await walk(inode, path);
      else if (kind === 'file' && !seen.has(inode)) {
        seen.add(inode);
        // Removed meanwhile, perhaps.
        const attributes = await fs.getAttributes(inode).catch(() => undefined);
        if (attributes !== undefined) files.push({ path, inode, size: attributes.size });
      }
    }
  };
  await walk(ROOT_INODE, '');
  return files;
}
