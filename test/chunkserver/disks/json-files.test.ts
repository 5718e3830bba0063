/** The small files of a data directory, written by several at once on a disk that is slow. */
import t from 'tap';
import { JsonFiles } from '../../../src/chunkserver/disks/json-files.js';
import { SeededRandom } from '../../../src/core/random.js';
import { CrashDisk } from '../../support/fakes/crash-disk.js';
import { slowDisk } from '../../support/fakes/slow-disk.js';

t.test('writes that are made at once leave the last one, whole', async (t) => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new SeededRandom(seed);
    const pause = async (): Promise<void> => {
      for (let i = random.below(10); i > 0; i--) await Promise.resolve();
    };
    const files = new JsonFiles(slowDisk(new CrashDisk(random), random, pause), '/d');
    const values = Array.from({ length: 4 }, (_, index) => ({ index, text: 'x'.repeat(random.below(60)) }));
    await Promise.all(values.map((value) => files.write('mark', value)));
    t.same(await files.read('mark'), values.at(-1), `seed ${seed}`);
  }
});
