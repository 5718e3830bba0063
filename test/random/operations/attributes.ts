/** Operations on attributes: chmod, chown, utimensat, truncate by name, access, extended attributes and ACLs. */
import assert from 'node:assert/strict';
import { pick } from '../../../src/core/random.js';
import type { AttributeChanges } from '../../../src/filesystem/filesystem.js';
import { anyDirectory, anyNode, anyOffset, caller, IDS, ofKind, ownerOf } from './choices.js';
import { settle } from '../coherence.js';
import type { Tracked } from '../tracked.js';
import type { Work } from '../work.js';

const isNoLink = (node: Tracked): boolean => node.kind !== 'symlink';

/**
 * A program that changes a file by its path has looked it up: the kernel compares the caller with the owner that it
 * knows, and does not ask for what it knows by a descriptor.
 */
async function refresh(work: Work, node: Tracked): Promise<void> {
  await work.look(node);
}

async function change(work: Work, node: Tracked, changes: AttributeChanges, as = caller(work)): Promise<void> {
  // The home stays open to all, so that there is work for everybody.
  if (node === work.home && changes.mtime === undefined) return;
  // What was written takes mtime and set-user-id with it, whenever it is flushed.
  await settle(work, node);
  await refresh(work, node);
  const changed = await work.both(`uid ${as.uid} changes ${node.id} ${JSON.stringify(changes)}`, [node], ({ fs, id }) =>
    fs.setAttributes(as, id(node), changes),
  );
  if (changed !== undefined) {
    // Who writes to the file elsewhere must have opened it since, to know what his writes take away (set-user-id).
    if (node.kind === 'file') node.attributesChangedOn(work.mount);
    work.compareAttributes('change', node, changed);
    if (typeof changes.atime === 'object') {
      work.check('atime', [node], () => assert.deepEqual(changed.real.atime, changed.model.atime));
    }
  }
  await work.look(node);
}

const mostlyOwner = (work: Work, node: Tracked) => (work.random.below(3) > 0 ? ownerOf(work, node) : caller(work));

export async function chmod(work: Work): Promise<void> {
  const node = anyNode(work, isNoLink);
  if (node === undefined) return;
  const mode = pick(work.random, [0o755, 0o777, 0o644, 0o666, 0o600, 0o4755, 0o6777, 0o2775, 0o1777, 0o000, 0o051]);
  await change(work, node, { mode }, mostlyOwner(work, node));
}

export async function chown(work: Work): Promise<void> {
  const node = anyNode(work);
  if (node === undefined) return;
  const [uid, gid] = [pick(work.random, IDS), pick(work.random, IDS)];
  const changes = pick(work.random, [{ uid }, { gid }, { uid, gid }]);
  await change(work, node, changes, mostlyOwner(work, node));
}

/** Far from any clock, so that they are known again: before 1970 and after 2106 too. */
function anyTime(work: Work): { seconds: number; nanoseconds: number } {
  const seconds = pick(work.random, [-1000, 0, 1, 1_000_000_000, 5_000_000_000]) + work.random.below(1000);
  return { seconds, nanoseconds: work.random.below(1e9) };
}

export async function utimes(work: Work): Promise<void> {
  const node = anyNode(work);
  if (node === undefined) return;
  const time = () => (work.random.below(3) === 0 ? ('now' as const) : anyTime(work));
  const changes = pick(work.random, [{ mtime: time() }, { atime: time(), mtime: time() }]);
  await change(work, node, changes, mostlyOwner(work, node));
}

/** truncate(2) */
export async function truncate(work: Work): Promise<void> {
  const node = anyNode(work, ofKind('file'));
  if (node === undefined) return;
  const size = anyOffset(work, node);
  await change(work, node, { size }, mostlyOwner(work, node));
}

export async function access(work: Work): Promise<void> {
  const node = anyNode(work, isNoLink);
  if (node === undefined) return;
  const [as, mask] = [caller(work), 1 + work.random.below(7)];
  await work.both(`uid ${as.uid} asks for access ${mask} to ${node.id}`, [node], ({ fs, id }) =>
    fs.access(as, id(node), mask),
  );
}

const XATTRS = ['user.a', 'user.b', 'user.long'.padEnd(200, 'g'), 'trusted.t', 'security.test'];

export async function xattr(work: Work): Promise<void> {
  const { random } = work;
  const node = anyNode(work, isNoLink);
  if (node === undefined) return;
  const [as, name] = [mostlyOwner(work, node), Buffer.from(pick(random, XATTRS))];
  const what = `of ${node.id} by uid ${as.uid}: ${name.toString().slice(0, 20)}`;
  const choice = random.below(6);
  if (choice < 4) await refresh(work, node);
  if (choice < 3) {
    const flags = pick(random, [{}, {}, { create: true }, { replace: true }]);
    const value = random.bytes(random.below(random.below(10) === 0 ? 5000 : 60));
    await work.both(`set xattr ${what} ${value.length} ${JSON.stringify(flags)}`, [node], ({ fs, id }) =>
      fs.setXattr(as, id(node), name, value, flags),
    );
  } else if (choice === 3) {
    await work.both(`remove xattr ${what}`, [node], ({ fs, id }) => fs.removeXattr(as, id(node), name));
  } else if (choice === 4) {
    const got = await work.both(`get xattr ${what}`, [node], ({ fs, id }) => fs.getXattr(as, id(node), name));
    if (got !== undefined) work.check('xattr', [node], () => assert.deepEqual(got.real, got.model));
  } else {
    const listed = await work.both(`list xattrs ${what}`, [node], ({ fs, id }) => fs.listXattrs(as, id(node)));
    const sorted = (names: Buffer[]): string[] => names.map((each) => each.toString('latin1')).sort();
    if (listed !== undefined) {
      work.check('xattrs', [node], () => assert.deepEqual(sorted(listed.real), sorted(listed.model)));
    }
  }
  if (choice < 4) await work.look(node);
}

const TAGS = { owner: 1, user: 2, group: 4, namedGroup: 8, mask: 16, others: 32 } as const;

/** A list with a mask and a few names, or one that says no more than a mode. */
function anyAcl(work: Work): Buffer {
  const { random } = work;
  const rows: [tag: number, perm: number, id: number][] = [];
  const add = (tag: number, id = 0xffffffff): unknown => rows.push([tag, random.below(8), id]);
  const isShort = random.below(4) === 0;
  add(TAGS.owner);
  if (!isShort) for (const uid of [1001, 1002]) if (random.below(2) === 0) add(TAGS.user, uid);
  add(TAGS.group);
  if (!isShort && random.below(2) === 0) add(TAGS.namedGroup, 2000);
  if (!isShort) add(TAGS.mask);
  add(TAGS.others);
  const bytes = Buffer.alloc(4 + 8 * rows.length);
  bytes.writeUInt32LE(2, 0);
  for (const [index, [tag, perm, id]] of rows.entries()) {
    bytes.writeUInt16LE(tag, 4 + 8 * index);
    bytes.writeUInt16LE(perm, 6 + 8 * index);
    bytes.writeUInt32LE(id, 8 + 8 * index);
  }
  return bytes;
}

export async function acl(work: Work): Promise<void> {
  const { random } = work;
  const isDefault = random.below(3) === 0;
  const node = isDefault ? anyDirectory(work) : anyNode(work, isNoLink);
  if (node === undefined || node === work.home) return;
  const name = Buffer.from(isDefault ? 'system.posix_acl_default' : 'system.posix_acl_access');
  const as = mostlyOwner(work, node);
  const what = `${isDefault ? 'default ' : ''}ACL of ${node.id} by uid ${as.uid}`;
  const choice = random.below(5);
  await refresh(work, node);
  if (choice < 2) {
    const list = anyAcl(work);
    await settle(work, node);
    await work.both(`set ${what} ${list.toString('hex')}`, [node], ({ fs, id }) =>
      fs.setXattr(as, id(node), name, list),
    );
  } else if (choice === 2) {
    await work.both(`remove ${what}`, [node], ({ fs, id }) => fs.removeXattr(as, id(node), name));
  } else {
    const got = await work.both(`get ${what}`, [node], ({ fs, id }) => fs.getXattr(as, id(node), name));
    if (got !== undefined) work.check('ACL', [node], () => assert.deepEqual(got.real, got.model));
  }
  if (choice < 3) {
    // As with chmod.
    if (node.kind === 'file') node.attributesChangedOn(work.mount);
    await work.look(node);
  }
}

/** What the mount says of all is sane. */
export async function statFs(work: Work): Promise<void> {
  const stats = await work.both('statfs', [], ({ fs }) => fs.statFs());
  if (stats === undefined) return;
  const { real, model } = stats;
  work.check('statfs', [], () => {
    assert.equal(real.maxNameBytes, model.maxNameBytes);
    // Free is what the servers have that are there: none may be, when they were killed.
    assert.ok(real.totalBytes >= real.freeBytes && real.freeBytes >= 0);
  });
}
