/** Errors in the shape of Node's: `code`, negative `errno`, `syscall`, `path`. */
import { POSIX_ERRORS, asCairnError, toErrno } from '../core/errors.js';

const NAME_OF_ERRNO = new Map<number, string>(Object.entries(POSIX_ERRORS).map(([name, number]) => [number, name]));

export interface Call {
  /** As strace names it. */
  readonly syscall: string;
  readonly path?: string | undefined;
  /** The second path of rename, link, symlink and copyFile. */
  readonly dest?: string | undefined;
}

/** A failed call, as `node:fs` would report it. `cause` says what happened in the cluster. */
export class FileSystemError extends Error {
  /** Name of the errno, such as 'ENOENT'. */
  readonly code: string;
  /** Negative. */
  readonly errno: number;
  readonly syscall: string;
  readonly path?: string;
  readonly dest?: string;

  constructor(cause: unknown, call: Call) {
    const errno = toErrno(cause);
    const code = NAME_OF_ERRNO.get(errno) ?? 'EIO';
    const on = call.path === undefined ? '' : ` '${call.path}'${call.dest === undefined ? '' : ` -> '${call.dest}'`}`;
    super(`${code}: ${asCairnError(cause).message}, ${call.syscall}${on}`, { cause });
    this.name = 'FileSystemError';
    this.code = code;
    this.errno = -errno;
    this.syscall = call.syscall;
    if (call.path !== undefined) this.path = call.path;
    if (call.dest !== undefined) this.dest = call.dest;
  }
}

/** Runs `run`; its failure becomes a FileSystemError that names the call. */
export async function asCall<T>(call: Call, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof FileSystemError)) throw new FileSystemError(error, call);
    // A call made of others names both of its paths.
    throw call.dest === undefined ? error : new FileSystemError(error.cause, call);
  }
}

/** True when `error` is a failed call with one of `codes`, or what one came from. */
export function failedWith(error: unknown, ...codes: string[]): boolean {
  if (error instanceof FileSystemError) return codes.includes(error.code);
  return codes.includes(asCairnError(error).code);
}
