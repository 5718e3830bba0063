/** Rows of a tree of small files, a hundred in each directory: written, listed, read, renamed, removed. */
import { mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { noise, run, type Place, type Row } from './row.js';

const FILE_BYTES = 4096;
const FILES_PER_DIRECTORY = 100;
const WRITTEN = '4K files written (sync)';

const rootIn = ({ directory }: Place): string => join(directory, 'small');

function pathsIn(place: Place): string[] {
  return Array.from({ length: place.sizes.smallFiles }, (_, index) => {
    const folder = `d${String(Math.floor(index / FILES_PER_DIRECTORY)).padStart(2, '0')}`;
    return join(rootIn(place), folder, `f${String(index).padStart(4, '0')}`);
  });
}

function list(place: Place): number {
  run('ls', ['-lR', rootIn(place)]);
  return place.sizes.smallFiles;
}

export const SMALL_FILE_ROWS: readonly Row[] = [
  {
    name: WRITTEN,
    unit: '/s',
    start: (place) => {
      run('rm', ['-rf', rootIn(place)]);
      const paths = pathsIn(place);
      const directories = new Set(paths.map(dirname));
      const bytes = noise(FILE_BYTES);
      return () => {
        for (const directory of directories) mkdirSync(directory, { recursive: true });
        for (const path of paths) writeFileSync(path, bytes);
        run('sync', []);
        return paths.length;
      };
    },
  },
  {
    ...{ name: 'ls -lR (cold)', unit: '/s', needs: [WRITTEN], cold: true },
    start: (place) => () => list(place),
  },
  {
    ...{ name: 'ls -lR (warm)', unit: '/s', needs: [WRITTEN], warm: true },
    start: (place) => () => list(place),
  },
  {
    ...{ name: 'stat (warm)', unit: '/s', needs: [WRITTEN], warm: true },
    start: (place) => {
      const paths = pathsIn(place);
      const passes = 3;
      return () => {
        for (let pass = 0; pass < passes; pass++) for (const path of paths) statSync(path);
        return passes * paths.length;
      };
    },
  },
  {
    ...{ name: '4K files read (cold)', unit: '/s', needs: [WRITTEN], cold: true },
    start: (place) => {
      const paths = pathsIn(place);
      return () => {
        for (const path of paths) {
          if (readFileSync(path).length !== FILE_BYTES) throw new Error(`${path} has lost bytes`);
        }
        return paths.length;
      };
    },
  },
  {
    ...{ name: 'rename', unit: '/s', needs: [WRITTEN] },
    start: (place) => {
      const paths = pathsIn(place);
      return () => {
        for (const path of paths) renameSync(path, `${path}r`);
        return paths.length;
      };
    },
  },
  {
    ...{ name: 'rm -rf', unit: '/s', needs: [WRITTEN] },
    start: (place) => () => {
      run('rm', ['-rf', rootIn(place)]);
      return place.sizes.smallFiles;
    },
  },
];
