/** Rows of names alone: empty files that are created, by one process and by four, and names that are not there. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, type Row } from './row.js';

const CREATORS = 4;
const creator = fileURLToPath(new URL('creator.js', import.meta.url));

function emptyDirectory(path: string): string {
  run('rm', ['-rf', path]);
  mkdirSync(path, { recursive: true });
  return path;
}

export function createEmptyFiles(directory: string, count: number): void {
  for (let i = 0; i < count; i++) closeSync(openSync(join(directory, `e${i}`), 'wx', 0o644));
}

/** Starts a process that waits for a message, and creates `count` files then. */
async function startCreator(directory: string, count: number): Promise<ChildProcess> {
  const child = fork(creator, [directory, String(count)]);
  await once(child, 'message');
  return child;
}

async function finish(child: ChildProcess): Promise<void> {
  const exited = once(child, 'exit') as Promise<[number | null]>;
  child.send('go');
  const [code] = await exited;
  if (code !== 0) throw new Error('a process could not create its files');
}

export const NAME_ROWS: readonly Row[] = [
  {
    name: 'create empty',
    unit: '/s',
    start: ({ directory, sizes }) => {
      const place = emptyDirectory(join(directory, 'empty'));
      return () => {
        createEmptyFiles(place, sizes.smallFiles);
        return sizes.smallFiles;
      };
    },
  },
  {
    name: 'create empty (4 processes)',
    unit: '/s',
    start: async ({ directory, sizes }) => {
      const place = emptyDirectory(join(directory, 'parallel'));
      const children: ChildProcess[] = [];
      for (let i = 0; i < CREATORS; i++) {
        children.push(await startCreator(emptyDirectory(join(place, String(i))), sizes.smallFiles / CREATORS));
      }
      return async () => {
        await Promise.all(children.map(finish));
        return sizes.smallFiles;
      };
    },
  },
  {
    name: 'stat of missing names',
    unit: '/s',
    start: ({ directory, sizes }) => {
      const paths = Array.from({ length: sizes.missingNames }, (_, index) => join(directory, `none${index}`));
      return () => {
        for (const path of paths) {
          if (statSync(path, { throwIfNoEntry: false }) !== undefined) throw new Error(`${path} is there`);
        }
        return paths.length;
      };
    },
  },
];
