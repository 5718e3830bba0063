/** Operations on names: making, moving and removing what directories hold, and reading it. */
import assert from 'node:assert/strict';
import { pick } from '../../../src/core/random.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import type { Credentials, DirectoryEntry, NewNode } from '../../../src/filesystem/filesystem.js';
import { STICKY } from '../../support/models/model-state.js';
import {
  anyDirectory,
  anyEntry,
  anyName,
  anyNode,
  isTooLong,
  caller,
  MAX_DIRECTORIES,
  MAX_HANDLES,
  MAX_NODES,
  nodeAt,
  ofKind,
  ownerOf,
} from './choices.js';
import { settle } from '../coherence.js';
import type { Tracked } from '../tracked.js';
import type { Work } from '../work.js';

const show = (name: Buffer): string => {
  const text = JSON.stringify(name.toString('latin1'));
  return text.length > 30 ? `${text.slice(0, 8)}…(${name.length})"` : text;
};

/** The directory, and what it has under the name. */
function around(work: Work, parent: Tracked, name: Buffer): Tracked[] {
  const existing = nodeAt(work, parent, name);
  return existing === undefined ? [parent] : [parent, existing];
}

/** Linux may keep O_CREAT from opening what others put into a sticky directory (protected_regular in proc_sys_fs(5)). */
function isProtected({ state }: Work, directory: Tracked, existing: Tracked, as: Credentials): boolean {
  const [{ permissions, uid }, { uid: owner }] = [state.inode(directory.id), state.inode(existing.id)];
  return (permissions & STICKY) !== 0 && (permissions & 0o022) !== 0 && owner !== as.uid && owner !== uid;
}

/** open(2) with O_CREAT. */
export async function create(work: Work): Promise<void> {
  const { random } = work;
  if (work.handles.size >= MAX_HANDLES) return;
  const [parent, name] = [anyDirectory(work), anyName(work)];
  const as = caller(work, name);
  const existing = nodeAt(work, parent, name);
  if (existing === undefined && work.nodes.size >= MAX_NODES) return remove(work);
  // The kernel opens directories without asking, and pipes and devices itself.
  if (existing !== undefined && !['file', 'symlink'].includes(existing.kind)) return list(work);
  if (existing !== undefined && isProtected(work, parent, existing, as)) return lookup(work);
  const flags = {
    ...{ read: random.below(5) > 0, write: true },
    ...{ truncate: random.below(4) === 0, append: random.below(6) === 0, sync: random.below(30) === 0 },
  };
  const options = {
    mode: pick(random, [0o644, 0o666, 0o600, 0o755, 0o640, 0o6777, 0o2664]),
    umask: pick(random, [0, 0o022, 0o077]),
    flags,
    exclusive: random.below(4) === 0,
  };
  if (existing !== undefined && flags.truncate) await settle(work, existing);
  const made = await work.both(
    `uid ${as.uid} opens ${show(name)} in ${parent.id} ${JSON.stringify(options)}`,
    existing === undefined ? [parent] : [parent, existing],
    ({ fs, id }) => fs.create(as, id(parent), name, options),
  );
  if (made === undefined) return work.look(parent);
  const handle = work.opened(made, { as, canRead: flags.read, canWrite: true, append: flags.append });
  if (made.model.created || flags.truncate) handle.node.changedOn(work.mount);
  else if (!handle.node.isDirtyElsewhere(work.mount)) handle.node.openedOn(work.mount);
  if (made.model.created) work.compareAttributes('create', handle.node, attributesOf(made));
  await work.look(parent, handle.node);
}

const attributesOf = <T>(made: { readonly real: { attributes: T }; readonly model: { attributes: T } }) => ({
  real: made.real.attributes,
  model: made.model.attributes,
});

/** open(2) with O_TMPFILE. */
export async function createTemporary(work: Work): Promise<void> {
  const { random } = work;
  if (work.handles.size >= MAX_HANDLES || work.nodes.size >= MAX_NODES) return;
  const [parent, as] = [anyDirectory(work), caller(work)];
  const options = {
    ...{ mode: pick(random, [0o600, 0o644]), umask: pick(random, [0, 0o027]), exclusive: random.below(3) === 0 },
    flags: { read: random.below(4) > 0, write: true },
  };
  const made = await work.both(
    `uid ${as.uid} opens a temporary file in ${parent.id} ${JSON.stringify(options)}`,
    [parent],
    ({ fs, id }) => fs.createTemporary(as, id(parent), options),
  );
  if (made === undefined) return;
  const handle = work.opened(made, { as, canRead: options.flags.read, canWrite: true, append: false });
  await work.look(parent, handle.node);
}

/** mkdir(2) and mknod(2). */
export async function makeNode(work: Work): Promise<void> {
  const { random } = work;
  const directories = [...work.nodes.values()].filter((node) => node.kind === 'directory').length;
  const wantsDirectory = random.below(5) < 3;
  if (work.nodes.size >= MAX_NODES || (wantsDirectory && directories >= MAX_DIRECTORIES)) return remove(work);
  const kind = wantsDirectory
    ? 'directory'
    : pick(random, ['fifo', 'socket', 'characterDevice', 'blockDevice', 'file'] as const);
  const [parent, name] = [anyDirectory(work), anyName(work)];
  const as = caller(work, name);
  const isDevice = kind === 'characterDevice' || kind === 'blockDevice';
  const mode = pick(random, [0o755, 0o777, 0o700, 0o2775, 0o1777, 0o640]);
  const node: NewNode = {
    kind,
    // mkdir(2) is given permissions and the sticky bit; set-group-id is the parent's to pass on.
    mode: kind === 'directory' ? mode & 0o1777 : mode,
    umask: pick(random, [0, 0o022]),
    ...(isDevice ? { rdev: random.below(2 ** 16) } : {}),
  };
  const made = await work.both(
    `uid ${as.uid} makes ${show(name)} in ${parent.id} ${JSON.stringify(node)}`,
    around(work, parent, name),
    ({ fs, id }) => fs.makeNode(as, id(parent), name, node),
  );
  if (made === undefined) return work.look(parent);
  const child = work.found(made);
  work.compareAttributes('made', child, made);
  await work.look(parent, child);
}

export async function symlink(work: Work): Promise<void> {
  if (work.nodes.size >= MAX_NODES) return remove(work);
  const [parent, name] = [anyDirectory(work), anyName(work)];
  const as = caller(work, name);
  const target = Buffer.alloc(1 + work.random.below(work.random.below(8) === 0 ? 4000 : 60), 't/\xe9', 'latin1');
  const made = await work.both(
    `uid ${as.uid} links ${show(name)} in ${parent.id} to a path of ${target.length}`,
    around(work, parent, name),
    ({ fs, id }) => fs.symlink(as, id(parent), name, target),
  );
  if (made === undefined) return work.look(parent);
  const child = work.found(made);
  work.compareAttributes('symlink', child, made);
  await work.look(parent, child);
}

export async function readLink(work: Work): Promise<void> {
  const node = anyNode(work, ofKind('symlink'));
  if (node === undefined) return symlink(work);
  const as = caller(work);
  const read = await work.both(`readlink ${node.id}`, [node], ({ fs, id }) => fs.readLink(as, id(node)));
  if (read !== undefined) work.check('readlink', [node], () => assert.deepEqual(read.real, read.model));
}

export async function link(work: Work): Promise<void> {
  const node = anyNode(work, (each) => each.kind !== 'directory');
  if (node === undefined) return;
  const [parent, name] = [anyDirectory(work), anyName(work)];
  // Linux lets others than the owner link a file only when they may write it, as an administrator sets it.
  const chosen = work.random.below(3) === 0 ? ownerOf(work, node) : caller(work, name);
  const as = chosen.uid === work.state.inode(node.id).uid && !isTooLong(name) ? chosen : ROOT_CREDENTIALS;
  await work.look(node);
  const linked = await work.both(
    `uid ${as.uid} links ${node.id} as ${show(name)} in ${parent.id}`,
    [node, ...around(work, parent, name)],
    ({ fs, id }) => fs.link(as, id(node), id(parent), name),
  );
  if (linked !== undefined) work.compareAttributes('link', node, linked);
  await work.look(parent, node);
}

/** unlink(2) and rmdir(2). */
export async function remove(work: Work): Promise<void> {
  const isDirectory = work.random.below(4) === 0;
  const { parent, name, node } = anyEntry(work, (kind) => (kind === 'directory') === isDirectory);
  const as = caller(work, name);
  await work.both(
    `uid ${as.uid} ${isDirectory ? 'rmdir' : 'unlink'} ${show(name)} (${node?.id ?? 'none'}) in ${parent.id}`,
    node === undefined ? [parent] : [parent, node],
    ({ fs, id }) => (isDirectory ? fs.removeDirectory(as, id(parent), name) : fs.unlink(as, id(parent), name)),
  );
  await work.look(parent, ...(node === undefined ? [] : [node]));
}

export async function rename(work: Work): Promise<void> {
  const { random } = work;
  const from = anyEntry(work);
  const to = random.below(2) === 0 ? anyEntry(work) : { parent: anyDirectory(work), name: anyName(work) };
  // Which of two errors comes first is nobody's promise.
  if (from.node === undefined && isTooLong(to.name)) return lookup(work);
  const replaced = nodeAt(work, to.parent, to.name);
  const as = caller(work, from.name, to.name);
  const intoItself = isWithin(work, to.parent, from.node);
  const ontoItself = isWithin(work, from.parent, replaced);
  // The kernel sees the loop before all else, unless another mount has moved one of the directories.
  const mayFailOtherwise = as.uid !== 0 || (intoItself ? replaced !== undefined : from.node?.kind !== 'directory');
  if ((intoItself || ontoItself) && mayFailOtherwise) return lookup(work);
  const flags = pick(random, [{}, {}, {}, { noReplace: true }, { exchange: true }]);
  const touched = [from.node, replaced].filter((node) => node !== undefined);
  // Not what is moved: a directory that another mount moved is moved on without a look at it.
  for (const node of [from.parent, to.parent]) await work.reach(node);
  const renamed = await work.compared(
    `uid ${as.uid} renames ${show(from.name)} (${from.node?.id ?? 'none'}) in ${from.parent.id} to ${show(to.name)} (${replaced?.id ?? 'none'}) in ${to.parent.id} ${JSON.stringify(flags)}`,
    [from.parent, to.parent, ...touched],
    ({ fs, id }) =>
      fs.rename(as, { parent: id(from.parent), name: from.name }, { parent: id(to.parent), name: to.name }, flags),
  );
  if (renamed !== undefined) for (const node of touched) work.moved(node);
  await work.look(from.parent, to.parent, ...touched);
}

/** Whether `node` is `above`, or somewhere below it. */
function isWithin(work: Work, node: Tracked, above: Tracked | undefined): boolean {
  for (let at: Tracked | undefined = node; at !== undefined && above !== undefined;) {
    if (at === above) return true;
    at = at === work.home ? undefined : work.nodes.get(work.state.inode(at.id).parent.id);
  }
  return false;
}

/** stat(2) by a name. */
export async function lookup(work: Work): Promise<void> {
  const { parent, name, node } = anyEntry(work);
  const as = caller(work, name);
  const nodes = node === undefined ? [parent] : [parent, node];
  const seen = await work.both(`uid ${as.uid} looks up ${show(name)} in ${parent.id}`, nodes, ({ fs, id }) =>
    fs.lookup(as, id(parent), name),
  );
  if (seen !== undefined && node !== undefined) {
    work.found(seen);
    work.compareAttributes('lookup', node, seen);
  }
}

/** readdir(3), whole or in pieces. */
export async function list(work: Work, directory: Tracked = anyDirectory(work), as = caller(work)): Promise<void> {
  const pieces = work.random.below(3) === 0 ? { maxEntries: 1 + work.random.below(5) } : {};
  const listed = await work.both(`uid ${as.uid} lists ${directory.id}`, [directory], async ({ fs, id }) => {
    const entries: DirectoryEntry[] = [];
    for (let cookie = 0, end = false; !end;) {
      const page = await fs.readDirectory(as, id(directory), cookie, pieces);
      entries.push(...page.entries);
      cookie = page.entries.at(-1)?.cookie ?? cookie;
      end = page.end;
    }
    return entries.map(({ kind, name }) => `${kind} ${show(name)}`).sort();
  });
  if (listed !== undefined) work.check('list', [directory], () => assert.deepEqual(listed.real, listed.model));
}
