import t from 'tap';
import { blockSegments, checksum, segmentChecksums, segmentsMatch } from '../../src/core/checksum.js';
import { SystemClock, compareTimespec } from '../../src/core/clock.js';
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
import { chunkHandle, inodeId } from '../../src/core/ids.js';
import { BLOCK_SIZE_BYTES } from '../../src/core/limits.js';
import { pick, SeededRandom, SystemRandom } from '../../src/core/random.js';
import { KeyedMutex, Mutex, Semaphore } from '../../src/core/sync.js';

void t.test('error codes are distinct numbers and go over the wire and back', (t) => {
  const codes = [...Object.keys(POSIX_ERRORS), ...Object.keys(CLUSTER_ERRORS)] as ErrorCode[];
  t.equal(new Set(codes.map(errorNumber)).size, codes.length);
  for (const code of codes) {
    t.equal(errorCodeOf(errorNumber(code)), code);
    const errno = toErrno(new CairnError(code, 'x'));
    t.ok(errno > 0 && errno < 133, `${code} has an errno`);
  }
  t.equal(errorCodeOf(424242), 'INTERNAL');
  t.equal(toErrno(new CairnError('ENOENT', 'x')), 2);
  t.equal(toErrno(new TypeError('a fault')), POSIX_ERRORS.EIO);
  t.ok(hasCode(asCairnError(Object.assign(new Error('x'), { code: 'ENOSPC' })), 'EIO', 'ENOSPC'));
  t.end();
});

void t.test('ids are safe non-negative integers', (t) => {
  t.equal(inodeId(2 ** 53 - 1), 2 ** 53 - 1);
  for (const bad of [-1, 1.5, 2 ** 53, NaN]) t.throws(() => chunkHandle(bad), { code: 'EINVAL' });
  t.end();
});

void t.test('segments are cut at block boundaries', (t) => {
  const B = BLOCK_SIZE_BYTES;
  t.same([...blockSegments(0, 5)], []);
  t.same(
    [...blockSegments(2 * B, 10)],
    [
      [0, B - 10],
      [B - 10, 2 * B - 10],
      [2 * B - 10, 2 * B],
    ],
  );
  const bytes = new SeededRandom(1).bytes(3 * B);
  const sums = segmentChecksums(bytes, B - 1);
  t.equal(sums.length, 4);
  t.ok(segmentsMatch(bytes, B - 1, sums));
  t.notOk(segmentsMatch(bytes, B, sums));
  t.notOk(segmentsMatch(bytes, B - 1, sums.slice(1)));
  t.notOk(segmentsMatch(bytes, B - 1, [...sums, 0]));
  bytes[B + 7] = (bytes[B + 7] ?? 0) ^ 1;
  t.notOk(segmentsMatch(bytes, B - 1, sums), 'one flipped bit is seen');
  t.equal(checksum(bytes.subarray(5), checksum(bytes.subarray(0, 5))), checksum(bytes), 'a checksum can be continued');
  t.end();
});

void t.test('a seed gives its numbers again, spread evenly', (t) => {
  const draw = (seed: number): number[] => {
    const random = new SeededRandom(seed);
    return Array.from({ length: 50 }, () => random.below(1000));
  };
  t.same(draw(7), draw(7));
  t.notSame(draw(7), draw(8));
  for (const random of [new SeededRandom(3), new SystemRandom()]) {
    const counts = [0, 0, 0, 0];
    for (let i = 0; i < 4000; i++) counts[random.below(4)] = (counts[random.below(4)] ?? 0) + 1;
    t.ok(counts.every((count) => count > 700));
    t.equal(random.bytes(9).length, 9);
  }
  t.throws(() => pick(new SeededRandom(1), []), RangeError);
  t.end();
});

void t.test('a semaphore is fair, bounded, and gives permits back once', async (t) => {
  const semaphore = new Semaphore(2, 2);
  const order: string[] = [];
  const first = await semaphore.acquire(2);
  const big = semaphore.acquire(2).then((release) => {
    order.push('big');
    release();
  });
  const small = semaphore.acquire(1).then((release) => {
    order.push('small');
    release();
  });
  await t.rejects(semaphore.acquire(), { code: 'BUSY' });
  first();
  first();
  await Promise.all([big, small]);
  t.same(order, ['big', 'small'], 'a small request does not overtake');
  t.ok(semaphore.idle);
});

void t.test('a mutex runs one section at a time, also after a failure', async (t) => {
  const mutex = new Mutex();
  let inside = 0;
  const section = async (): Promise<void> => {
    t.equal(++inside, 1);
    await Promise.resolve();
    inside--;
  };
  const failing = mutex.run(() => Promise.reject(new Error('x')));
  await Promise.all([t.rejects(failing), mutex.run(section), mutex.run(section)]);
  const keyed = new KeyedMutex<number>();
  const seen: number[] = [];
  await Promise.all([1, 2, 1].map((key) => keyed.run(key, () => void seen.push(key))));
  t.same(seen.sort(), [1, 1, 2]);
});

void t.test('the system clock goes forward', (t) => {
  const clock = new SystemClock();
  const a = clock.now();
  const b = clock.now();
  t.ok(compareTimespec(a, b) <= 0);
  t.ok(Math.abs(a.seconds - Math.floor(Date.now() / 1000)) <= 1);
  let fired = false;
  clock.setTimer(1, () => (fired = true)).cancel();
  setTimeout(() => {
    t.notOk(fired);
    t.end();
  }, 10);
});
