/**
 * The archive that the rows of programs unpack: a tree like that of a project with its dependencies, the same in every run
 * of one scale. 25,000 files at scale 1:
 *
 *   src, test      modules of TypeScript that import each other and compile without an error
 *   docs           pages of text
 *   node_modules   packages of small files, whose sizes are spread as in a real project (median 1 KB, mean 4 KB), and
 *                  the compiler of this repository
 */
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { numbers, run } from './rows/row.js';

const SEED = 20_030_519;
/** Bytes of files at equal steps of their ranks, from the smallest to the largest; those between are interpolated. */
const SIZES = [20, 100, 250, 450, 720, 1000, 1450, 2300, 4200, 10_000, 60_000];
/** Of all files, those in src, and as many in test. */
const MODULES = 0.014;
const PAGES = 10;
const MODULES_PER_FOLDER = 20;
const FOLDERS = ['dist', 'lib', 'lib/internal', 'esm', 'types', 'test', 'src/util'];
const ENDINGS = ['.js', '.js', '.d.ts', '.js.map', '.mjs', '.json', '.md'];
const WORDS =
  'const let return function export import from value index length result options error buffer async await ' +
  'if else for of new class extends this null true false undefined string number boolean type interface readonly ' +
  'path file name entry chunk offset bytes server client master session lease version';

const words = WORDS.split(' ');

class Pseudorandom {
  private readonly next = numbers(SEED);

  below(limit: number): number {
    return this.next() % limit;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** By SIZES. */
  size(): number {
    const rank = (this.next() / 2 ** 32) * (SIZES.length - 1);
    const step = Math.floor(rank);
    const low = SIZES[step] ?? 0;
    return Math.round(low + ((SIZES[step + 1] ?? low) - low) * (rank - step));
  }

  text(bytes: number): string {
    let text = '';
    while (text.length < bytes) text += this.pick(words) + (this.below(9) === 0 ? ';\n' : ' ');
    return text.slice(0, bytes);
  }
}

/** Writes the archive; the tree is made in `scratch`, which is on a local disk, and removed again. */
export function archiveSourceTree(options: {
  readonly archive: string;
  readonly scratch: string;
  readonly repository: string;
  readonly files: number;
}): void {
  const root = join(options.scratch, 'source-tree');
  const compiler = join(options.repository, 'node_modules/typescript');
  const random = new Pseudorandom();
  cpSync(compiler, join(root, 'node_modules/typescript'), { recursive: true });
  let left =
    options.files - readdirSync(compiler, { recursive: true, withFileTypes: true }).filter((e) => e.isFile()).length;
  const add = (path: string, text: string): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
    left--;
  };
  add('package.json', JSON.stringify({ name: 'tree', private: true, type: 'module' }));
  add('tsconfig.json', JSON.stringify({ compilerOptions: COMPILER_OPTIONS, include: ['src', 'test'] }));
  const modules = Math.max(4, Math.round(options.files * MODULES));
  for (let index = 0; index < modules; index++) add(modulePath('src', index), moduleText(random, index));
  for (let index = 0; index < modules; index++) add(modulePath('test', index), testText(random, index));
  for (let index = 0; index < PAGES; index++) add(`docs/page-${index}.md`, random.text(8000));
  for (let index = 0; left > 0; index++) addPackage(random, `node_modules/package-${index}`, left, add);
  run('tar', ['cf', options.archive, '-C', root, ...readdirSync(root).sort()]);
  rmSync(root, { recursive: true });
}

const COMPILER_OPTIONS = {
  ...{ target: 'ES2022', module: 'NodeNext', rootDir: '.', outDir: 'dist', strict: true },
  ...{ declaration: true, sourceMap: true, types: [] },
};

function addPackage(
  random: Pseudorandom,
  path: string,
  atMost: number,
  add: (path: string, text: string) => void,
): void {
  const count = Math.min(atMost, 2 + random.below(90));
  for (let index = 0; index < count; index++) {
    if (index === 0)
      add(`${path}/package.json`, JSON.stringify({ name: path, version: '1.0.0', text: random.text(600) }));
    else
      add(
        `${path}/${random.pick(FOLDERS)}/${random.pick(words)}-${index}${random.pick(ENDINGS)}`,
        random.text(random.size()),
      );
  }
}

function modulePath(folder: 'src' | 'test', index: number): string {
  return `${folder}/part-${Math.floor(index / MODULES_PER_FOLDER)}/module-${index}.ts`;
}

/** A module with an interface, a class and functions, that uses up to three modules before it. */
function moduleText(random: Pseudorandom, index: number): string {
  const used = new Set(Array.from({ length: Math.min(index, 3) }, () => random.below(index)));
  const imports = [...used].map((other) => importOf(other, '../'));
  const sums = [...used].map((other) => `    sum += total${other}([{ name: entry.name, size: entry.size }]);`);
  const functions = Array.from({ length: 4 + random.below(12) }, (_, at) => functionText(random, index, at));
  return [
    ...imports,
    `/** ${random.text(200).replaceAll('\n', ' ')} */`,
    `export interface Entry${index} {\n  readonly name: string;\n  readonly size: number;\n}`,
    `export function total${index}(entries: readonly Entry${index}[]): number {`,
    `  let sum = 0;\n  for (const entry of entries) {\n    sum += entry.size;\n${sums.join('\n')}\n  }\n  return sum;\n}`,
    `export class Table${index} {`,
    `  private readonly rows = new Map<string, Entry${index}>();`,
    `  add(entry: Entry${index}): this {\n    this.rows.set(entry.name, entry);\n    return this;\n  }`,
    `  get total(): number {\n    return total${index}([...this.rows.values()]);\n  }\n}`,
    ...functions,
  ].join('\n');
}

function functionText(random: Pseudorandom, index: number, at: number): string {
  const key = createHash('sha256').update(`${index}/${at}`).digest('hex');
  return [
    `export function part${at}(entries: readonly Entry${index}[], limit = ${random.below(1000)}): readonly string[] {`,
    `  return entries`,
    `    .filter((entry) => entry.size < limit && entry.name !== '${key}')`,
    `    .map((entry) => \`\${entry.name}: \${entry.size * ${1 + random.below(9)}}\`);\n}`,
  ].join('\n');
}

function testText(random: Pseudorandom, index: number): string {
  const other = random.below(index + 1);
  return [
    importOf(index, '../../src/', 'Table'),
    ...(other === index ? [] : [importOf(other, '../../src/', 'Table')]),
    `const tables = [new Table${index}(), new Table${other}()];`,
    `for (const table of tables) table.add({ name: '${random.pick(words)}', size: ${random.below(1000)} });`,
    `export const text = ${JSON.stringify(random.text(2000))};`,
    `export const sizes = tables.map((table) => table.total);`,
  ].join('\n');
}

function importOf(index: number, sources: string, name = 'total'): string {
  const path = modulePath('src', index)
    .replace(/^src\//, '')
    .replace(/\.ts$/, '.js');
  return `import { ${name}${index} } from '${sources}${path}';`;
}
