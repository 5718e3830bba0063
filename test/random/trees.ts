/** Comparing everything: each mount's whole tree with the model's. */
import assert from 'node:assert/strict';
import { KIB, MIB } from '../../src/core/limits.js';
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import { equalBytes } from '../conformance/case.js';
import { keyName } from '../support/models/model-state.js';
import type { SparseBytes } from '../support/sparse-bytes.js';
import { flushAll } from './coherence.js';
import { list } from './operations/names.js';
import type { Tracked } from './tracked.js';
import type { Work } from './work.js';

const READ_ONLY = { read: true, write: false };
/** Of a long hole, its ends are read. */
const HOLE_ENDS_BYTES = 64 * KIB;

/** Compares what has a name, and what is open, on every mount. */
export async function compareTrees(work: Work): Promise<void> {
  const from = work.mount;
  await flushAll(work);
  for (let mount = 0; mount < work.mountCount; mount++) {
    work.mount = mount;
    for (const node of [...work.nodes.values()]) {
      if (!work.isReachable(node)) continue;
      if (node.kind === 'directory') {
        await list(work, node, ROOT_CREDENTIALS);
        for (const [key, entry] of work.state.directory(node.id).entries)
          await compareEntry(work, node, key, entry.inode.id);
      }
      if (node.kind === 'file') await compareContent(work, node);
      // Before its ACL: what the kernel knows of that goes when it asks for the attributes.
      await work.look(node);
      if (node.kind !== 'symlink') await compareXattrs(work, node);
    }
  }
  work.mount = from;
}

async function compareEntry(work: Work, parent: Tracked, key: string, id: Tracked['id']): Promise<void> {
  const node = work.nodes.get(id) ?? assert.fail(`inode ${id} was never seen`);
  const name = keyName(key);
  const seen = await work.both(`compare ${key.slice(0, 10)} in ${parent.id}`, [parent, node], ({ fs, id }) =>
    fs.lookup(ROOT_CREDENTIALS, id(parent), name),
  );
  if (seen === undefined) return;
  work.found(seen);
  work.compareAttributes('compare', node, seen);
}

async function compareContent(work: Work, node: Tracked): Promise<void> {
  const { content } = work.state.inode(node.id);
  const what = `compare the content of ${node.id}`;
  await work.both(what, [node], async ({ name, fs, id }) => {
    const { file } = await fs.open(ROOT_CREDENTIALS, id(node), READ_ONLY);
    try {
      if (name === 'model') return;
      for (const { offset, length } of piecesOf(content)) {
        const bytes = await file.read(offset, length);
        work.check(what, [node], () => equalBytes(bytes, content.read(offset, length), `bytes from ${offset}`));
      }
    } finally {
      await file.close();
    }
  });
  node.openedOn(work.mount);
}

/** What was written, and of the holes between as much as is worth reading. */
function* piecesOf(content: SparseBytes): Generator<{ readonly offset: number; readonly length: number }> {
  for (let at = 0; at < content.size;) {
    const data = content.next(at, 'data') ?? content.size;
    if (data - at > 2 * HOLE_ENDS_BYTES) {
      yield { offset: at, length: HOLE_ENDS_BYTES };
      yield { offset: data - HOLE_ENDS_BYTES, length: HOLE_ENDS_BYTES };
    } else if (data > at) yield { offset: at, length: data - at };
    const hole = content.next(data, 'hole') ?? content.size;
    for (at = data; at < hole; at += MIB) yield { offset: at, length: Math.min(MIB, hole - at) };
    at = hole;
  }
}

async function compareXattrs(work: Work, node: Tracked): Promise<void> {
  const all = await work.both(`compare the xattrs of ${node.id}`, [node], async ({ fs, id }) => {
    const names = await fs.listXattrs(ROOT_CREDENTIALS, id(node));
    const pairs: string[] = [];
    for (const name of names) {
      const value = await fs.getXattr(ROOT_CREDENTIALS, id(node), name);
      pairs.push(`${name.toString('latin1')}=${value.toString('hex')}`);
    }
    return pairs.sort();
  });
  if (all !== undefined) work.check('xattrs', [node], () => assert.deepEqual(all.real, all.model));
}
