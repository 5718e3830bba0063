/** All rows, in the order in which they run: later ones work on what earlier ones left. */
import { LARGE_FILE_ROWS } from './large-file.js';
import { LOCK_ROWS } from './locks.js';
import { NAME_ROWS } from './names.js';
import { PROGRAM_ROWS } from './programs.js';
import { SMALL_FILE_ROWS } from './small-files.js';
import type { Row } from './row.js';

export interface Group {
  readonly title: string;
  readonly rows: readonly Row[];
  /** Whether a round that does not count comes first. Programs on a large tree take too long for that. */
  readonly warmUp: boolean;
}

export const GROUPS: readonly Group[] = [
  { title: 'a large file', rows: LARGE_FILE_ROWS, warmUp: true },
  { title: 'small files', rows: SMALL_FILE_ROWS, warmUp: true },
  { title: 'names and locks', rows: [...NAME_ROWS, ...LOCK_ROWS], warmUp: true },
  { title: 'programs on a source tree', rows: PROGRAM_ROWS, warmUp: false },
];

/**
 * Those whose name is one of `texts`; for a text that is no row's name, those that have it in their name or in their group's
 * title. Undefined: all.
 */
export function chooseRows(texts: readonly string[] | undefined): ReadonlySet<Row> {
  const all = GROUPS.flatMap(({ title, rows }) => rows.map((row) => ({ row, title })));
  const isExact = (text: string): boolean => all.some(({ row }) => row.name === text);
  const fits = (text: string, row: Row, title: string): boolean =>
    isExact(text) ? row.name === text : row.name.includes(text) || title.includes(text);
  const chosen = all.filter(({ row, title }) => texts?.some((text) => fits(text, row, title)) ?? true);
  return new Set(chosen.map(({ row }) => row));
}
