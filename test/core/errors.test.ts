import t from 'tap';
import { constants } from 'node:os';
import {
  asCairnError,
  CairnError,
  CLUSTER_ERRORS,
  errorCodeOf,
  errorNumber,
  hasCode,
  POSIX_ERRORS,
  toErrno,
  type ErrorCode,
} from '../../src/core/errors.js';

const codes = [...Object.keys(POSIX_ERRORS), ...Object.keys(CLUSTER_ERRORS)] as ErrorCode[];

t.test('the numbers of POSIX codes are those of this Linux', (t) => {
  for (const [code, number] of Object.entries(POSIX_ERRORS)) {
    t.equal(number, constants.errno[code as keyof typeof constants.errno], code);
  }
  t.end();
});

t.test('every code goes over the wire and back, each under a number of its own', (t) => {
  for (const code of codes) t.equal(errorCodeOf(errorNumber(code)), code);
  t.equal(new Set(codes.map(errorNumber)).size, codes.length);
  t.end();
});

t.test('an unknown number from the wire is INTERNAL', (t) => {
  t.equal(errorCodeOf(65_535), 'INTERNAL');
  t.equal(errorCodeOf(0), 'INTERNAL');
  t.end();
});

t.test('an application gets an errno of POSIX for every code', (t) => {
  const numbers = new Set<number>(Object.values(POSIX_ERRORS));
  for (const code of codes) t.ok(numbers.has(toErrno(new CairnError(code, 'x'))), code);
  t.equal(toErrno(new TypeError('a fault')), POSIX_ERRORS.EIO);
  t.equal(toErrno('a string'), POSIX_ERRORS.EIO);
  t.end();
});

t.test('errors of system calls keep their code, and their cause', (t) => {
  const system = Object.assign(new Error('no space'), { code: 'ENOSPC' });
  const error = asCairnError(system);
  t.ok(hasCode(error, 'EIO', 'ENOSPC'));
  t.equal(error.cause, system);
  t.equal(asCairnError(error), error);
  t.notOk(hasCode(system, 'ENOSPC'), 'only a CairnError has a code to branch on');
  t.equal(asCairnError(Object.assign(new Error('x'), { code: 'ERR_INVALID_ARG_TYPE' })).code, 'INTERNAL');
  t.end();
});
