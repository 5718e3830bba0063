/** Structured logging. The only importer of pino. One line an event that an operator would want. */
import { pino, type Logger as PinoLogger } from 'pino';
import { SystemClock, type Clock } from '../clock.js';
import { LOG_SUMMARY_MS, MAX_UNWRITTEN_LOG_BYTES } from '../limits.js';
import { LogFile } from './log-file.js';
import { LogRate } from './log-rate.js';

export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  /** A logger that adds `fields` to each of its lines. */
  child(fields: object): Logger;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

const STDERR = 2;

/**
 * Lines of JSON on standard error, written at once so that a killed process has told all it knew. Where they cannot be
 * written, because the disk of the log is full, the process goes on without. What is said again and again is said now and
 * then (log-rate.ts). If
 * standard error is the file `file`, that is kept small (log-file.ts).
 */
export function createLogger(options: {
  readonly role: string;
  readonly level?: LogLevel;
  readonly file?: string | undefined;
  /** Default MAX_LOG_FILE_BYTES. */
  readonly maxFileBytes?: number;
}): Logger {
  const destination = pino.destination({ dest: STDERR, sync: true, maxLength: MAX_UNWRITTEN_LOG_BYTES });
  // Without a listener the error would be thrown into whatever was logging.
  destination.on('error', () => undefined);
  const log = options.file === undefined ? undefined : LogFile.of(STDERR, options.file, options.maxFileBytes);
  if (log !== undefined) destination.on('write', (bytes: number) => log.wrote(bytes));
  const rate = new LogRate();
  const lines = pino(
    {
      level: options.level ?? 'info',
      base: { role: options.role, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  const clock = new SystemClock();
  const summarize = setInterval(() => {
    for (const [message, leftOut] of rate.untold()) lines.warn({ said: message, leftOut }, 'said again');
  }, LOG_SUMMARY_MS);
  summarize.unref();
  return new RatedLogger(lines, rate, clock);
}

class RatedLogger implements Logger {
  constructor(
    private readonly lines: PinoLogger,
    private readonly rate: LogRate,
    private readonly clock: Clock,
  ) {}

  debug(fields: object, message: string): void {
    if (this.lines.isLevelEnabled('debug')) this.write('debug', fields, message);
  }

  info(fields: object, message: string): void {
    if (this.lines.isLevelEnabled('info')) this.write('info', fields, message);
  }

  warn(fields: object, message: string): void {
    this.write('warn', fields, message);
  }

  error(fields: object, message: string): void {
    this.write('error', fields, message);
  }

  child(fields: object): Logger {
    return new RatedLogger(this.lines.child(fields), this.rate, this.clock);
  }

  private write(level: LogLevel, fields: object, message: string): void {
    const { write, leftOut } = this.rate.admit(message, this.clock.monotonicMs());
    if (!write) return;
    this.lines[level](leftOut === 0 ? fields : { ...fields, leftOut }, message);
  }
}

/** Drops every line: for libraries and tests. */
export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};
