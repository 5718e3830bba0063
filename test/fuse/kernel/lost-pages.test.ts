/** P7: pages that were changed under a lost lock are not written, also when the kernel cannot be told at once to drop them. */
import t from 'tap';
import { inodeId } from '../../../src/core/ids.js';
import { deferred } from '../../../src/core/sync.js';
import { LostPages } from '../../../src/fuse/kernel/memory/lost-pages.js';

t.test('what a mapping changed is refused until the kernel has dropped its pages', async (t) => {
  const [inode, other] = [inodeId(7), inodeId(8)];
  const [later, dropped] = [deferred<void>(), deferred<void>()];
  let tries = 0;
  const pages = new LostPages(
    async () => {
      if (++tries === 1) throw new Error('ENOMEM');
      await dropped.promise;
    },
    () => later.promise,
  );
  const done = pages.drop(inode, true);
  await new Promise(setImmediate);
  t.throws(() => pages.requireKept(inode), { code: 'EIO' }, 'the kernel could not be told');
  pages.requireKept(other);
  later.resolve();
  await new Promise(setImmediate);
  t.equal(tries, 2);
  t.throws(() => pages.requireKept(inode), { code: 'EIO' }, 'it is being told');
  dropped.resolve();
  await done;
  pages.requireKept(inode);
});
