/** One of the four processes that create empty files at once. usage: creator.js DIRECTORY COUNT; it begins when told. */
import { createEmptyFiles } from './names.js';

const [directory, count] = process.argv.slice(2);
if (directory === undefined || process.send === undefined) throw new Error('usage: creator.js DIRECTORY COUNT, forked');
process.once('message', () => {
  createEmptyFiles(directory, Number(count));
  process.exit(0);
});
process.send('ready');
