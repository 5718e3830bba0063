/**
 * Rows of real programs on a tree of 25,000 files like those of a project with its dependencies (source-tree.ts), in
 * seconds where nothing is counted. Each but the first and SQLite's is a script of bash in the directory where the tree is.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { run, type Place, type Row } from './row.js';

const UNPACKED = 'untar';
const COMMITTED = 'git init+add+commit';

const treeIn = ({ directory }: Place): string => join(directory, 'tree');

/** `script` runs in the tree, and fails with the first of its commands that fails. $node is the program of Node.js. */
function program(name: string, script: string, kind: Pick<Row, 'needs' | 'cold' | 'warm'> = {}): Row {
  return {
    ...{ name, unit: 's', needs: [UNPACKED], ...kind },
    start: (place) => () =>
      run('bash', ['-euc', `cd "$1"; node=$2; ${script}`, 'bash', treeIn(place), process.execPath]),
  };
}

export const PROGRAM_ROWS: readonly Row[] = [
  {
    name: UNPACKED,
    unit: 's',
    start: (place) => {
      run('rm', ['-rf', treeIn(place)]);
      mkdirSync(treeIn(place));
      return () => run('bash', ['-euc', 'tar xf "$1" -C "$2"; sync', 'bash', place.archive, treeIn(place)]);
    },
  },
  program('find (cold)', 'find . -type f -size +0', { cold: true }),
  program('find (warm)', 'find . -type f -size +0', { warm: true }),
  // grep ends with 1 when nothing has the text.
  program('grep -r (cold)', 'grep -r zzzqqq src test || [ $? = 1 ]', { cold: true }),
  program(COMMITTED, 'git init -q .; git add src test docs; git commit -qm tree'),
  program('git status (warm)', 'git status -uno', { needs: [COMMITTED], warm: true }),
  program('git status (cold)', 'git status -uno', { needs: [COMMITTED], cold: true }),
  program('git clone+rm', 'git clone -q --no-hardlinks . ../clone; rm -rf ../clone', { needs: [COMMITTED] }),
  program('cp -r typescript', 'cp -r node_modules/typescript copy; sync'),
  program('tsc build', '"$node" node_modules/typescript/bin/tsc -p .'),
  {
    ...{ name: 'sqlite transactions', unit: '/s', needs: [UNPACKED] },
    start: (place) => {
      const database = join(treeIn(place), 't.db');
      run('sqlite3', [database, 'CREATE TABLE t (a, b)']);
      const inserts = Array.from({ length: place.sizes.transactions }, (_, index) => {
        return `INSERT INTO t VALUES (${index}, '${'x'.repeat(100)}');\n`;
      });
      return () => {
        run('sqlite3', ['-bail', database], { input: inserts.join('') });
        return inserts.length;
      };
    },
  },
  program('rm -rf the tree', 'cd ..; rm -rf tree'),
];
