/** The files that documents send a reader to are there, and the functions of docs/architecture.md. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const text = readFileSync(join(root, 'docs/architecture.md'), 'utf8');
const trips = text.slice(text.indexOf('## Trips'), text.indexOf('## Where something new goes'));

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

/** Words of the trips that are no functions. */
const UNNAMED = new Set(['fsync', 'Mutation', 'isGraceOver']);

t.test('every step of the trips names a file and a function that exist', async (t) => {
  let steps = 0;
  let file = '';
  for (const [, word] of trips.matchAll(/`([^`]+)`/g)) {
    if (word === undefined || /[( ]/.test(word) || word === 'src/' || UNNAMED.has(word)) continue;
    if (word.endsWith('.ts')) {
      file = word;
      t.not(source(file), '', `${file} exists`);
    } else {
      steps++;
      t.ok(defines(source(file), word), `${file} has ${word}`);
    }
  }
  t.ok(steps > 60);
});

t.test('every file that a document names is there', async (t) => {
  const files = ['src', 'test', 'scripts'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((path) => `/${folder}/${path}`),
  );
  const documents = ['README.md', 'CONTRIBUTING.md', ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)];
  let count = 0;
  for (const document of documents) {
    for (const [, path = ''] of readFileSync(join(root, document), 'utf8').matchAll(
      /`([\w./-]+\.(?:ts|mjs|proto|c))`/g,
    )) {
      count++;
      t.ok(
        files.some((file) => file.endsWith(`/${path}`)),
        `${document}: ${path}`,
      );
    }
  }
  t.ok(count > 200, `${count} in documents`);
});
