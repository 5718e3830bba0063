/** Does one piece of work in one directory and prints its rate as JSON: usage: worker.js NAME DIRECTORY SIZES-AS-JSON. */
import { mkdirSync } from 'node:fs';
import { WORKS, type Sizes } from './works.js';

const [name, directory, sizesText] = process.argv.slice(2);
const work = WORKS.find((candidate) => candidate.name === name);
if (work === undefined || directory === undefined || sizesText === undefined) {
  throw new Error(`usage: worker.js NAME DIRECTORY SIZES; no work is called '${name ?? ''}'`);
}
const sizes = JSON.parse(sizesText) as Sizes;
mkdirSync(directory, { recursive: true });
work.prepare?.(directory, sizes);
const started = performance.now();
const done = work.run(directory, sizes);
const rate = typeof done === 'number' ? done / ((performance.now() - started) / 1000) : done.rate;
process.stdout.write(JSON.stringify({ rate }) + '\n');
