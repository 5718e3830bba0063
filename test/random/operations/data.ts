/** Operations on open files. */
import assert from 'node:assert/strict';
import { CHUNK_SIZE_BYTES, KIB, MIB } from '../../../src/core/limits.js';
import { pick } from '../../../src/core/random.js';
import { equalBytes } from '../../conformance/case.js';
import { ROOT_CREDENTIALS } from '../../../src/filesystem/filesystem.js';
import { content } from '../../support/files.js';
import {
  anyEntry,
  anyHandle,
  anyLength,
  anyOffset,
  caller,
  LONGEST_FILE_BYTES,
  MAX_DATA_BYTES,
  MAX_HANDLES,
  nearbyOffset,
} from './choices.js';
import { makeCurrent, settle } from '../coherence.js';
import { releaseBefore } from './locks.js';
import { create } from './names.js';
import type { Handle, Tracked } from '../tracked.js';
import type { Work } from '../work.js';

/** open(2) without O_CREAT. */
export async function open(work: Work): Promise<void> {
  const { random } = work;
  if (work.handles.size >= MAX_HANDLES) return close(work);
  const { parent, name, node } = anyEntry(work, (kind) => kind === 'file' || kind === 'symlink');
  if (node !== undefined && !['file', 'symlink'].includes(node.kind)) return;
  const as = caller(work, name);
  const write = random.below(3) > 0;
  const flags = {
    ...{ read: !write || random.below(4) > 0, write, truncate: write && random.below(6) === 0 },
    ...{ append: write && random.below(4) === 0, sync: random.below(30) === 0, direct: random.below(4) === 0 },
  };
  if (node !== undefined && flags.truncate) await settle(work, node);
  const what = `uid ${as.uid} opens ${JSON.stringify(name.toString('latin1').slice(0, 9))} (${node?.id ?? 'none'}) in ${parent.id} ${JSON.stringify(flags)}`;
  const opened = await work.both(what, node === undefined ? [parent] : [parent, node], ({ fs, id }) =>
    fs.openAt(as, id(parent), name, flags),
  );
  if (opened === undefined) return;
  const handle = work.opened(opened, { as, canRead: flags.read, canWrite: write, append: flags.append });
  if (flags.truncate) handle.node.changedOn(work.mount);
  else if (!handle.node.isDirtyElsewhere(work.mount)) handle.node.openedOn(work.mount);
  await work.look(handle.node);
}

async function changed(work: Work, handle: Handle): Promise<void> {
  handle.node.changedOn(work.mount);
  handle.node.dirty.add(handle);
  handle.node.wasWritten = true;
  await work.look(handle.node);
}

const describe = (handle: Handle): string => `of ${handle.node.id} by handle ${handle.number}`;

export async function write(work: Work): Promise<void> {
  const handle = anyHandle(work, (each) => each.canWrite || work.random.below(20) === 0);
  if (handle === undefined) return create(work);
  await makeCurrent(work, handle.node);
  const offset = nearbyOffset(work, handle.node);
  const size = work.state.inode(handle.node.id).size;
  const room = LONGEST_FILE_BYTES - (handle.append ? size : offset);
  const length = Math.min(anyLength(work), room);
  if (length <= 0) return;
  const bytes = content(work.random.below(2 ** 31), length);
  const written = await work.compared(`write ${length} at ${offset} ${describe(handle)}`, [handle.node], ({ file }) =>
    file(handle).write(offset, bytes),
  );
  if (written === undefined) return;
  work.check('write', [handle.node], () => assert.equal(written.real, written.model));
  await changed(work, handle);
}

/** Appends go where the file ends for all mounts, also when another has appended and not flushed. */
export async function append(work: Work): Promise<void> {
  const handle = anyHandle(work, (each) => each.canWrite && each.append);
  if (handle === undefined) return open(work);
  const { node } = handle;
  if ([...node.dirty].some((each) => !each.append)) await makeCurrent(work, node);
  const length = Math.min(anyLength(work), LONGEST_FILE_BYTES - work.state.inode(node.id).size);
  if (length <= 0) return;
  const bytes = content(work.random.below(2 ** 31), length);
  const written = await work.compared(`append ${length} ${describe(handle)}`, [node], ({ file }) =>
    file(handle).write(0, bytes),
  );
  if (written === undefined) return;
  work.check('append', [node], () => assert.equal(written.real, written.model));
  await changed(work, handle);
}

/** Reads on from where the handle was read last, so that what follows is read ahead. */
export async function readOn(work: Work): Promise<void> {
  const { random } = work;
  const handle = anyHandle(work, (each) => each.canRead);
  if (handle === undefined) return open(work);
  const { node } = handle;
  await makeCurrent(work, node);
  const { size } = work.state.inode(node.id);
  if (handle.readTo >= size || random.below(6) === 0) handle.readTo = anyOffset(work, node);
  for (let reads = 1 + random.below(4); reads > 0; reads--) {
    const [offset, length] = [handle.readTo, 1 + random.below(random.below(2) === 0 ? 5000 : 60 * KIB)];
    const what = `read on ${length} at ${offset} ${describe(handle)}`;
    const got = await work.compared(what, [node], async ({ file }) =>
      Buffer.from(await file(handle).read(offset, length)),
    );
    if (got === undefined) return;
    work.check(what, [node], () => equalBytes(got.real, got.model, what));
    handle.readTo += got.model.length;
  }
}

/**
 * Reads on over the end of what the client sends at a time, writes there, or has another mount write there, and reads it
 * once more: what was read ahead is old as soon as the bytes have left, and nothing else may tell so yet.
 */
export async function readAgain(work: Work): Promise<void> {
  const { random } = work;
  const handle = anyHandle(work, (each) => each.canRead && each.canWrite && !each.append);
  if (handle === undefined) return open(work);
  const { node } = handle;
  await makeCurrent(work, node);
  const start = MIB - random.below(60 * KIB);
  const length = MIB - start + random.below(20 * KIB);
  const put = async (): Promise<boolean> => {
    const bytes = content(random.below(2 ** 31), length);
    const written = await work.compared(`write ${length} at ${start} ${describe(handle)}`, [node], ({ file }) =>
      file(handle).write(start, bytes),
    );
    if (written === undefined) return false;
    node.changedOn(work.mount);
    node.dirty.add(handle);
    node.wasWritten = true;
    return true;
  };
  const get = async (): Promise<void> => {
    for (let at = start - 5000; at < start + length; at += 20 * KIB) {
      const what = `read again ${20 * KIB} at ${at} ${describe(handle)}`;
      const got = await work.compared(what, [node], async ({ file }) =>
        Buffer.from(await file(handle).read(at, 20 * KIB)),
      );
      if (got !== undefined) work.check(what, [node], () => equalBytes(got.real, got.model, what));
    }
  };
  if (work.state.inode(node.id).size < start + length) {
    if (!(await put())) return;
    await work.compared(`flush ${describe(handle)}`, [node], ({ file }) => file(handle).flush());
    node.dirty.delete(handle);
  }
  await get();
  if (random.below(2) === 0 && isKnownElsewhere(work, node)) await putElsewhere(work, node, start, length);
  else if (!(await put())) return;
  await makeCurrent(work, node);
  await get();
  await work.look(node);
}

/** Whether another mount is sure to find it: it has it already, or believes no old names. */
function isKnownElsewhere(work: Work, node: Tracked): boolean {
  if (work.nameOf(node) === undefined) return false;
  return work.strict || node.ids[(work.mount + 1) % work.mountCount] !== undefined;
}

async function putElsewhere(work: Work, node: Tracked, start: number, length: number): Promise<void> {
  const { mount } = work;
  await settle(work, node);
  await flushHere(work, node);
  work.mount = (mount + 1) % work.mountCount;
  const bytes = content(work.random.below(2 ** 31), length);
  const flags = { read: false, write: true };
  const what = `opens ${node.id}, writes ${length} at ${start} and closes`;
  const written = await work.both(what, [node], async ({ fs, id }) => {
    const { file } = await fs.open(ROOT_CREDENTIALS, id(node), flags);
    await file.write(start, bytes);
    await file.close();
  });
  if (written !== undefined) {
    node.changedOn(work.mount);
    node.wasWritten = true;
  }
  work.mount = mount;
}

/** What this mount wrote to the file is there for others. */
async function flushHere(work: Work, node: Tracked): Promise<void> {
  for (const handle of [...node.dirty]) {
    await work.compared(`flush ${describe(handle)}`, [node], ({ file }) => file(handle).flush());
    node.dirty.delete(handle);
  }
}

export async function read(work: Work): Promise<void> {
  const handle = anyHandle(work, (each) => each.canRead || work.random.below(20) === 0);
  if (handle === undefined) return open(work);
  await makeCurrent(work, handle.node);
  const [offset, length] = [anyOffset(work, handle.node), anyLength(work)];
  const what = `read ${length} at ${offset} ${describe(handle)}`;
  const got = await work.compared(what, [handle.node], async ({ file }) =>
    Buffer.from(await file(handle).read(offset, length)),
  );
  if (got !== undefined) work.check(what, [handle.node], () => equalBytes(got.real, got.model, what));
}

export async function truncateOpen(work: Work): Promise<void> {
  const handle = anyHandle(work, (each) => each.canWrite);
  if (handle === undefined) return open(work);
  await makeCurrent(work, handle.node);
  const size = anyOffset(work, handle.node);
  const cut = await work.compared(`ftruncate to ${size} ${describe(handle)}`, [handle.node], ({ file }) =>
    file(handle).truncate(size),
  );
  if (cut !== undefined) await changed(work, handle);
}

/** fallocate(2) */
export async function allocate(work: Work): Promise<void> {
  const { random } = work;
  const handle = anyHandle(work, (each) => each.canWrite);
  if (handle === undefined) return open(work);
  await makeCurrent(work, handle.node);
  const mode = pick(random, [
    { punchHole: true, keepSize: true },
    { punchHole: true, keepSize: true },
    { zeroRange: true },
    { zeroRange: true, keepSize: true },
    { keepSize: true },
    {},
  ]);
  const offset = anyOffset(work, handle.node);
  const longest = mode.keepSize === true && random.below(5) === 0 ? 2 * CHUNK_SIZE_BYTES : anyLength(work);
  const length = mode.keepSize === true ? longest : Math.min(longest, LONGEST_FILE_BYTES - offset);
  if (length <= 0) return;
  const what = `fallocate ${JSON.stringify(mode)} of ${length} at ${offset} ${describe(handle)}`;
  const done = await work.compared(what, [handle.node], ({ file }) => file(handle).allocate(offset, length, mode));
  if (done !== undefined) await changed(work, handle);
}

/** copy_file_range(2) */
export async function copy(work: Work): Promise<void> {
  const [from, to] = [anyHandle(work, (each) => each.canRead), anyHandle(work, (each) => each.canWrite)];
  if (from === undefined || to === undefined) return open(work);
  await makeCurrent(work, from.node);
  await makeCurrent(work, to.node);
  const [sourceOffset, offset] = [anyOffset(work, from.node), anyOffset(work, to.node)];
  const length = Math.min(anyLength(work), LONGEST_FILE_BYTES - offset, MAX_DATA_BYTES);
  if (length <= 0) return;
  const what = `copy ${length} at ${sourceOffset} ${describe(from)} to ${offset} ${describe(to)}`;
  const copied = await work.compared(what, [from.node, to.node], ({ file }) =>
    file(to).copyFrom(file(from), sourceOffset, offset, length),
  );
  if (copied === undefined) return;
  work.check(what, [from.node, to.node], () => assert.equal(copied.real, copied.model));
  if (copied.model > 0) await changed(work, to);
}

/** lseek(2): a hole may be told as data, but never the other way round. */
export async function seek(work: Work): Promise<void> {
  const handle = anyHandle(work);
  if (handle === undefined) return open(work);
  const { node } = handle;
  await makeCurrent(work, node);
  const [offset, whence] = [anyOffset(work, node), pick(work.random, ['data', 'hole'] as const)];
  const { content: bytes } = work.state.inode(node.id);
  const isInFile = offset < bytes.size;
  const isZero = (from: number, to: number): boolean => {
    for (let at = from; at < to;) {
      const next = bytes.next(at, 'data');
      if (next === undefined || next >= to) return true;
      const piece = bytes.read(next, Math.min(MAX_DATA_BYTES, to - next));
      if (piece.some((byte) => byte !== 0)) return false;
      at = next + piece.length;
    }
    return true;
  };
  const what = `seek ${whence} from ${offset} ${describe(handle)}`;
  const found = await work.compared(what, [node], async ({ name, file }) => {
    if (!isInFile || name === 'real') {
      return file(handle)
        .seek(offset, whence)
        .catch((error: unknown) => {
          // Nothing but a hole up to the end: the model, which keeps zeros that were written, cannot tell.
          if (isInFile && whence === 'data' && isZero(offset, bytes.size)) return bytes.size;
          throw error;
        });
    }
    return offset;
  });
  if (found === undefined) return;
  work.check(what, [node], () => {
    assert.ok(found.real >= offset && found.real <= bytes.size, `${found.real} of ${bytes.size}`);
    if (whence === 'data') assert.ok(isZero(offset, found.real), `bytes before ${found.real} are no hole`);
    else assert.ok(found.real === bytes.size || isZero(found.real, found.real + 1), `byte ${found.real} is no hole`);
  });
}

export async function flush(work: Work): Promise<void> {
  const handle = anyHandle(work);
  if (handle === undefined) return open(work);
  const isSync = work.random.below(3) === 0;
  await work.compared(`${isSync ? 'fsync' : 'flush'} ${describe(handle)}`, [handle.node], ({ file }) =>
    isSync ? file(handle).sync() : file(handle).flush(),
  );
  handle.node.dirty.delete(handle);
  await work.look(handle.node);
}

export async function close(work: Work, handle = anyHandle(work)): Promise<void> {
  if (handle === undefined) return;
  await releaseBefore(work, handle);
  work.handles.delete(handle);
  await work.compared(`close ${describe(handle)}`, [handle.node], ({ file }) => file(handle).close());
  handle.node.dirty.delete(handle);
  await work.look(handle.node);
}
