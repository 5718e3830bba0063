/** The row of record locks. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, type Row } from './row.js';

/** Of the sources: dist/ has compiled files only. */
const SOURCE = fileURLToPath(new URL('../../../../test/bench/rows/record-locks.c', import.meta.url));

export const LOCK_ROWS: readonly Row[] = [
  {
    name: 'record locks taken and released',
    unit: '/s',
    start: ({ directory, sizes, scratch }) => {
      const program = join(scratch, 'record-locks');
      if (!existsSync(program)) run('cc', ['-O2', '-o', program, SOURCE]);
      return () => {
        run(program, [join(directory, 'locked'), String(sizes.locks)]);
        return sizes.locks;
      };
    },
  },
];
