/** Structured logging. The only importer of pino. One line an event that an operator would want. */
import { pino } from 'pino';
import { MIB } from './limits.js';

export interface Logger {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  /** A logger that adds `fields` to each of its lines. */
  child(fields: object): Logger;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** Lines that could not be written are kept up to this, and told once there is space again. */
const MAX_UNWRITTEN_BYTES = 1 * MIB;

/**
 * Lines of JSON on standard error, written at once so that a killed process has told all it knew. Where they cannot be
 * written, because the disk of the log is full, the process goes on without.
 */
export function createLogger(options: { role: string; level?: LogLevel }): Logger {
  const destination = pino.destination({ dest: 2, sync: true, maxLength: MAX_UNWRITTEN_BYTES });
  // Without a listener the error would be thrown into whatever was logging.
  destination.on('error', () => undefined);
  return pino(
    {
      level: options.level ?? 'info',
      base: { role: options.role, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
}

/** Drops every line: for libraries and tests. */
export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};
