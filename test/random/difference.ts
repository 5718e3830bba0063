/** What a random test reports when the file system and the model disagree. */
import assert from 'node:assert/strict';
import type { Attributes } from '../../src/filesystem/filesystem.js';
import type { Timespec } from '../../src/core/clock.js';
import { compareTimespec } from '../../src/core/clock.js';
import type { Times, Tracked } from './tracked.js';

/** Lines of one report, and operations that are remembered for it. */
const LINES_SHOWN = Number(process.env['CAIRN_TRACE_LINES'] ?? 30);
const LINES_KEPT = 5_000;

export class Difference extends Error {
  override readonly name = 'Difference';
}

/** The last operations of one worker, and which inodes each touched. */
export class History {
  private lines: { readonly text: string; readonly inodes: ReadonlySet<number> }[] = [];

  add(text: string, nodes: readonly Tracked[]): void {
    this.lines.push({ text, inodes: new Set(nodes.map((node) => node.id)) });
    if (this.lines.length >= 2 * LINES_KEPT) this.lines = this.lines.slice(-LINES_KEPT);
  }

  /** The last lines about `nodes`, oldest first. */
  about(nodes: readonly Tracked[]): string {
    const wanted = this.lines.filter(({ inodes }) => nodes.some((node) => inodes.has(node.id)));
    return wanted
      .slice(-LINES_SHOWN)
      .map(({ text }) => `  ${text}`)
      .join('\n');
  }
}

const KIND_BITS = 0o170000;
const DIRECTORY_BITS = 0o040000;
/** The model's clock starts here and ticks in microseconds; explicit times are far away from it. */
const MODEL_EPOCH_SECONDS = 1_700_000_000;
const MODEL_EPOCH_LENGTH_SECONDS = 100_000;
const isOfModelClock = ({ seconds }: Timespec): boolean =>
  seconds >= MODEL_EPOCH_SECONDS && seconds < MODEL_EPOCH_SECONDS + MODEL_EPOCH_LENGTH_SECONDS;

/** What both must agree on; inode numbers, places and sizes of directories are the file system's own affair. */
function view({ mode, nlink, uid, gid, size, rdev }: Attributes): object {
  const isDirectory = (mode & KIND_BITS) === DIRECTORY_BITS;
  return { mode: mode.toString(8), nlink, uid, gid, rdev, ...(isDirectory ? {} : { size }) };
}

export function compareAttributes(real: Attributes, model: Attributes): void {
  assert.deepEqual(view(real), view(model));
}

/** What holds although another mount has written to the file and not flushed (P2). */
export function compareSettled(real: Attributes, model: Attributes): void {
  const settled = ({ mode, nlink, uid, gid, rdev }: Attributes): object => ({
    mode: (mode & ~0o6000).toString(8),
    ...{ nlink, uid, gid, rdev },
  });
  assert.deepEqual(settled(real), settled(model));
}

/** Times that somebody set are exact; the others have moved since the last look, or not, as the model's have. */
export function compareTimes(
  last: { readonly real: Times; readonly model: Times } | undefined,
  real: Times,
  model: Times,
  options: { readonly mayMoveCtime: boolean },
): void {
  for (const time of ['mtime', 'ctime'] as const) {
    if (!isOfModelClock(model[time])) {
      assert.deepEqual(real[time], model[time], `${time} was set`);
    } else if (last !== undefined) {
      const moved = (side: 'real' | 'model', now: Times): boolean => compareTimespec(now[time], last[side][time]) !== 0;
      if (time === 'ctime' && options.mayMoveCtime && moved('real', real)) continue;
      assert.equal(moved('real', real), moved('model', model), `${time} moved`);
    }
  }
}
