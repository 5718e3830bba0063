/** A program that appends records to a file: append-worker.js FILE WRITER COUNT MAX_BYTES SEED HOW */
import { open } from 'node:fs/promises';
import { SeededRandom } from '../../src/core/random.js';
import { record } from '../support/records.js';

const [path, writer, count, maxBytes, seed, how] = process.argv.slice(2);
if (path === undefined) throw new Error('which file?');
const random = new SeededRandom(Number(seed));
let file = await open(path, 'a');
for (let sequence = 0; sequence < Number(count); sequence++) {
  const bytes = record(Number(writer), sequence, 16 + random.below(Number(maxBytes) - 16));
  // One write(2) each: an append of a shell or a logger.
  const { bytesWritten } = await file.write(bytes);
  if (bytesWritten !== bytes.length) throw new Error(`${bytesWritten} of ${bytes.length} bytes were written`);
  const next = random.below(100);
  if (how === 'sync' && next < 30) await file.sync();
  if (how === 'reopen' && next < 50) {
    await file.close();
    file = await open(path, 'a');
  }
}
await file.close();
