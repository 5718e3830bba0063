/**
 * Everything that happens in a world, as lines: hashed, so that two runs can be compared, and the last ones kept.
 * CAIRN_TRACE=FILE writes them all there.
 */
import { createHash } from 'node:crypto';
import { openSync, writeSync } from 'node:fs';

const TAIL_LINES = 200;
const traceFile = process.env['CAIRN_TRACE'];
const fd = traceFile === undefined ? undefined : openSync(traceFile, 'w');

export class Trace {
  private readonly hash = createHash('sha256');
  private readonly lines: string[] = [];
  count = 0;

  constructor(
    private readonly nowUs: () => number,
    /** Called with every line, for a test that looks for the first difference between two runs. */
    private readonly onLine?: (line: string) => void,
  ) {}

  add(line: string): void {
    const full = `${this.nowUs()} ${line}`;
    this.hash.update(full).update('\n');
    this.count++;
    this.onLine?.(full);
    if (fd !== undefined) writeSync(fd, `${full}\n`);
    if (this.lines.length >= 2 * TAIL_LINES) this.lines.splice(0, TAIL_LINES);
    this.lines.push(full);
  }

  tail(lines = TAIL_LINES): string[] {
    return this.lines.slice(-lines);
  }

  /** Of all lines so far. */
  digest(): string {
    return this.hash.copy().digest('hex');
  }
}
