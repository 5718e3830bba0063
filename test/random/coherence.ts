/** What a mount must do before it may expect the bytes that another wrote (P2: close-to-open). */
import { ROOT_CREDENTIALS } from '../../src/filesystem/filesystem.js';
import type { Tracked } from './tracked.js';
import type { Work } from './work.js';

const READ_ONLY = { read: true, write: false };

/** What other mounts wrote to `node` is flushed by those who wrote it. */
export async function settle(work: Work, node: Tracked): Promise<void> {
  const { mount } = work;
  for (const handle of [...node.dirty]) {
    if (handle.mount === mount) continue;
    work.mount = handle.mount;
    await work.compared(`flush ${handle.number} of ${node.id}`, [node], ({ file }) => file(handle).flush());
    node.dirty.delete(handle);
  }
  work.mount = mount;
}

/** And the mount of now opens it: then all its handles read what was written. */
export async function makeCurrent(work: Work, node: Tracked): Promise<void> {
  await settle(work, node);
  if (node.isCurrentOn(work.mount)) return;
  await work.both(`opens ${node.id} to see what others wrote`, [node], async ({ fs, id }) => {
    const { file } = await fs.open(ROOT_CREDENTIALS, id(node), READ_ONLY);
    await file.close();
  });
  node.openedOn(work.mount);
}

/** Every mount flushes all that it wrote. */
export async function flushAll(work: Work): Promise<void> {
  const { mount } = work;
  for (const handle of work.handles) {
    if (!handle.node.dirty.delete(handle)) continue;
    work.mount = handle.mount;
    await work.compared(`flush ${handle.number} of ${handle.node.id}`, [handle.node], ({ file }) =>
      file(handle).flush(),
    );
  }
  work.mount = mount;
}
