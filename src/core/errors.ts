/**
 * The one error class and its closed set of codes. Code branches on `code`, never on the message.
 * A message says what was tried, on what, and what to do about it.
 */

/** Errors that a POSIX caller may see, by their names in errno(3). */
export const POSIX_ERRORS = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  EMFILE: 24,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EMLINK: 31,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ENOBUFS: 105,
  ENOTCONN: 107,
  ETIMEDOUT: 110,
  ESTALE: 116,
  EDQUOT: 122,
} as const;

/**
 * Errors between CairnFS processes. None of them reaches an application: the client retries, or turns
 * them into EIO, ESTALE or EACCES by `toErrno`.
 */
export const CLUSTER_ERRORS = {
  /** The replica is older or newer than the version asked for: ask the master again. */
  STALE_VERSION: 1001,
  /** The server holds no lease, or one with another id, for this chunk: ask the master again. */
  NOT_PRIMARY: 1002,
  /** The server has no replica of the chunk. */
  NO_REPLICA: 1003,
  /** The bytes on disk or on the wire do not match their checksum. */
  CORRUPT: 1004,
  /** The peer cannot serve now (starting, fenced, no replica alive): try again, or another. */
  UNAVAILABLE: 1005,
  /** The deadline of the request passed. */
  TIMEOUT: 1006,
  /** The connection ended before the answer came; whether the request took effect is not known. */
  DISCONNECTED: 1007,
  /** The peer did not prove the cluster's secret, or its role may not call the method. */
  UNAUTHENTICATED: 1008,
  /** A message breaks the protocol. The connection is closed. */
  PROTOCOL: 1009,
  /** The session is unknown or ended: its opens and locks are gone. */
  SESSION_EXPIRED: 1010,
  /** A bound was reached (in-flight requests, queue): try again later. */
  BUSY: 1011,
  /** The caller gave the request up. */
  CANCELLED: 1012,
  /** A fault in CairnFS itself. It is logged where it happened. */
  INTERNAL: 1013,
} as const;

export type PosixErrorCode = keyof typeof POSIX_ERRORS;
export type ClusterErrorCode = keyof typeof CLUSTER_ERRORS;
export type ErrorCode = PosixErrorCode | ClusterErrorCode;

const NUMBER_OF_CODE: Readonly<Record<ErrorCode, number>> = { ...POSIX_ERRORS, ...CLUSTER_ERRORS };
const CODE_OF_NUMBER: ReadonlyMap<number, ErrorCode> = new Map(
  (Object.keys(NUMBER_OF_CODE) as ErrorCode[]).map((code) => [NUMBER_OF_CODE[code], code]),
);

/** Of an operation that did what it should. */
const ANSWERS: ReadonlySet<ErrorCode> = new Set([
  'ENOENT',
  'EEXIST',
  'ENODATA',
  'EAGAIN',
  'ENOTEMPTY',
  'EACCES',
  'ESTALE',
]);

export class CairnError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    // Where an answer such as "no such name" was made tells nobody anything, and to find out costs more than to make it.
    const limit = Error.stackTraceLimit;
    if (ANSWERS.has(code)) Error.stackTraceLimit = 0;
    super(message, options);
    Error.stackTraceLimit = limit;
    this.name = 'CairnError';
    this.code = code;
  }
}

/** The number that stands for a code on the wire. */
export function errorNumber(code: ErrorCode): number {
  return NUMBER_OF_CODE[code];
}

/** The code that a number from the wire stands for; an unknown number is INTERNAL. */
export function errorCodeOf(number: number): ErrorCode {
  return CODE_OF_NUMBER.get(number) ?? 'INTERNAL';
}

export const isErrorCode = (name: string): name is ErrorCode => Object.hasOwn(NUMBER_OF_CODE, name);

/** True when `error` is a CairnError with one of `codes`. */
export function hasCode(error: unknown, ...codes: ErrorCode[]): error is CairnError {
  return error instanceof CairnError && codes.includes(error.code);
}

/** The disk, or a quota on it, has no space left: goes away when somebody frees some. */
export function isNoSpace(error: unknown): error is CairnError {
  return hasCode(error, 'ENOSPC', 'EDQUOT');
}

/** Any thrown value as a CairnError: Node's system errors keep their errno name, the rest is INTERNAL. */
export function asCairnError(error: unknown): CairnError {
  if (error instanceof CairnError) return error;
  if (error instanceof Error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== undefined && code in POSIX_ERRORS) {
      return new CairnError(code as PosixErrorCode, error.message, { cause: error });
    }
    return new CairnError('INTERNAL', error.message, { cause: error });
  }
  return new CairnError('INTERNAL', String(error));
}

/** The positive errno that an application gets for `error`: the only mapping from errors to errno. */
export function toErrno(error: unknown): number {
  const code = asCairnError(error).code;
  if (code in POSIX_ERRORS) return POSIX_ERRORS[code as PosixErrorCode];
  switch (code as ClusterErrorCode) {
    case 'TIMEOUT':
    case 'UNAVAILABLE':
    case 'DISCONNECTED':
      return POSIX_ERRORS.EIO;
    case 'UNAUTHENTICATED':
      return POSIX_ERRORS.EACCES;
    case 'SESSION_EXPIRED':
      return POSIX_ERRORS.ESTALE;
    case 'BUSY':
      return POSIX_ERRORS.EAGAIN;
    case 'CANCELLED':
      return POSIX_ERRORS.EINTR;
    case 'STALE_VERSION':
    case 'NOT_PRIMARY':
    case 'NO_REPLICA':
    case 'CORRUPT':
    case 'PROTOCOL':
    case 'INTERNAL':
      return POSIX_ERRORS.EIO;
  }
}
