/** Random work on one file by two handles, while servers fail: what is read is what a plain buffer says (P3, P5, P6). */
import t from 'tap';
import { CairnError } from '../../src/core/errors.js';
import { ROOT_INODE } from '../../src/core/ids.js';
import { KIB, MIB } from '../../src/core/limits.js';
import { pick } from '../../src/core/random.js';
import { ROOT_CREDENTIALS as root } from '../../src/filesystem/filesystem.js';
import { pattern } from '../conformance/case.js';
import { hookedCluster } from '../support/hooked-cluster.js';
import { seededRandom } from '../support/seed.js';
import { setAudits } from '../../src/core/invariant.js';

setAudits(true);
const MAX_BYTES = 5 * MIB;
const REFUSALS = ['STALE_VERSION', 'NOT_PRIMARY', 'UNAVAILABLE', 'BUSY', 'CORRUPT'] as const;

t.test('random writes, truncates, reads and flushes under faults equal a plain buffer', async (t) => {
  const random = seededRandom(t);
  const cluster = await hookedCluster();
  try {
    const fs = await cluster.connect({
      maxDirtyBytes: 3 * MIB,
      maxTotalDirtyBytes: 4 * MIB,
      maxReadaheadBytes: 2 * MIB,
    });
    const other = await cluster.connect();
    let faulty = true;
    const fault = (server: string): void => {
      if (!faulty || random.below(12) !== 0) return;
      if (random.below(4) === 0) cluster.network.cut(server);
      else throw new CairnError(pick(random, REFUSALS), 'planted');
    };
    const delay = async (): Promise<void> => {
      for (let i = random.below(6); i > 0; i--) await Promise.resolve();
    };
    cluster.hooks.write = async (_request, server) => {
      await delay();
      fault(server);
    };
    cluster.hooks.written = () => {
      if (faulty && random.below(40) === 0) cluster.network.cut(cluster.serverAddresses[0] ?? '');
    };
    cluster.hooks.read = async (_request, server) => {
      await delay();
      fault(server);
    };
    cluster.hooks.sync = () => fault(cluster.serverAddresses[0] ?? '');
    cluster.hooks.mutated = () => {
      if (faulty && random.below(15) === 0) cluster.network.cut(cluster.masterAddress);
    };

    const flags = { read: true, write: true };
    const { file: one } = await fs.create(root, ROOT_INODE, Buffer.from('f'), { mode: 0o600, flags });
    const { file: two } = await fs.openAt(root, ROOT_INODE, Buffer.from('f'), flags);
    const buffer = Buffer.alloc(MAX_BYTES);
    let size = 0;
    for (let step = 0; step < 300; step++) {
      const file = random.below(2) === 0 ? one : two;
      const offset = random.below(MAX_BYTES - 1);
      const what = random.below(20);
      if (what < 10) {
        const wanted = random.below(4) === 0 ? random.below(2 * MIB) : random.below(64 * KIB);
        const bytes = pattern(Math.min(wanted, MAX_BYTES - offset), step + 1);
        await file.write(offset, bytes);
        bytes.copy(buffer, offset);
        if (bytes.length > 0) size = Math.max(size, offset + bytes.length);
      } else if (what < 15) {
        const length = random.below(MIB);
        const read = await file.read(offset, length);
        const expected = buffer.subarray(offset, Math.min(size, offset + length));
        if (!read.equals(offset < size ? expected : Buffer.alloc(0))) t.fail(`step ${step}: read ${offset}+${length}`);
      } else if (what < 17) await file.flush();
      else if (what < 18) await file.sync();
      else if (what < 19) {
        size = random.below(MAX_BYTES);
        await file.truncate(size);
        buffer.fill(0, size);
      } else {
        // Sequential, so that readahead takes part.
        for (let at = 0; at < size; at += 128 * KIB) {
          const read = await file.read(at, 128 * KIB);
          if (!read.equals(buffer.subarray(at, Math.min(size, at + 128 * KIB))))
            t.fail(`step ${step}: stream at ${at}`);
        }
      }
      if ((await file.attributes()).size !== size) t.fail(`step ${step}: size`);
    }
    await one.close();
    await two.close();
    faulty = false;
    const { file, attributes } = await other.openAt(root, ROOT_INODE, Buffer.from('f'), { read: true, write: false });
    t.equal(attributes.size, size);
    const whole: Buffer[] = [];
    for (let at = 0; at < size; at += MIB) whole.push(await file.read(at, MIB));
    t.ok(Buffer.concat(whole).equals(buffer.subarray(0, size)), 'what another client reads');
    await file.close();
    t.ok(cluster.count('writeChunk') > 50);
  } finally {
    await cluster.stop();
  }
});
