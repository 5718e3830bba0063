/** The files and functions that docs/architecture.md sends a reader to are there. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const text = readFileSync(join(root, 'docs/architecture.md'), 'utf8');
const trips = text.slice(text.indexOf('## Four trips'), text.indexOf('## Metadata: state'));

const source = (path: string): string => {
  const at = join(root, 'src', path);
  return existsSync(at) ? readFileSync(at, 'utf8') : '';
};
/** A definition: a method, a function, or a row of a table of handlers. */
const defines = (code: string, name: string): boolean =>
  new RegExp(
    `^ *(export )?((private |async |function |static )*${name}[(<]| +(private |async )*${name}[(<:])`,
    'm',
  ).test(code);

t.test('every step of the four trips names a file and a function that exist', async (t) => {
  let steps = 0;
  let file = '';
  for (const [, word] of trips.matchAll(/`([^`]+)`/g)) {
    if (word === undefined || /[( ]/.test(word) || word === 'src/' || word === 'fsync' || word === 'Mutation') continue;
    if (word.endsWith('.ts')) {
      file = word;
      t.not(source(file), '', `${file} exists`);
    } else {
      steps++;
      t.ok(defines(source(file), word), `${file} has ${word}`);
    }
  }
  t.ok(steps > 30);
});
