/** A progress bar on stderr, when that is a terminal and the transfer is long. The only importer of cli-progress. */
import { Presets, SingleBar } from 'cli-progress';
import { MIB } from '../../core/limits.js';

/** Shorter transfers end before anybody looks. */
const SHOWN_FROM_BYTES = 8 * MIB;

export interface Progress {
  /** So many more bytes are through. */
  advance(bytes: number): void;
  end(): void;
}

const none: Progress = { advance: () => undefined, end: () => undefined };

export function showProgress(label: string, totalBytes: number): Progress {
  if (!process.stderr.isTTY || totalBytes < SHOWN_FROM_BYTES) return none;
  const format = `${label} {bar} {percentage}% | {value}/{total} MiB | {duration_formatted} | {eta_formatted} left`;
  const bar = new SingleBar(
    { format, stream: process.stderr, hideCursor: true, clearOnComplete: true },
    Presets.shades_classic,
  );
  bar.start(Math.ceil(totalBytes / MIB), 0);
  let done = 0;
  return {
    advance: (bytes) => {
      done += bytes;
      bar.update(Math.floor(done / MIB));
    },
    end: () => bar.stop(),
  };
}
