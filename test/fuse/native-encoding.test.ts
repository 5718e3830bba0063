import t from 'tap';
import { inodeId } from '../../src/core/ids.js';
import { fromMs, listingWords, statvfsWords, statWords, toMs } from '../../src/fuse/native/native-encoding.js';
import { MAX_TYPED_LISTING } from '../../src/core/limits.js';
import type { Attributes } from '../../src/filesystem/filesystem.js';

const attributes: Attributes = {
  inode: inodeId(2 ** 32 + 7),
  mode: 0o100644,
  nlink: 0,
  uid: 1,
  gid: 2,
  size: 5 * 2 ** 32 + 3,
  allocatedBytes: 1025,
  atime: { seconds: 1, nanoseconds: 2_999_999 },
  mtime: { seconds: 1_700_000_000, nanoseconds: 5_000_000 },
  ctime: { seconds: -5, nanoseconds: 0 },
  rdev: 0,
  change: 1,
};

t.test('attributes are 18 words: long values low word first, inode numbers cut, times in milliseconds', (t) => {
  const words = statWords(attributes);
  t.equal(words.length, 18);
  t.same([...words.subarray(0, 5)], [0o100644, 1, 2, 3, 5]);
  t.equal(words[6], 0, 'an unlinked file has no links');
  t.equal(words[7], 7);
  t.same([...words.subarray(10, 12)], [3, 0], 'blocks of 512 bytes, rounded up');
  t.same([...words.subarray(12, 14)], [1002, 0]);
  const ms = 1_700_000_000_005;
  t.same([...words.subarray(14, 16)], [ms % 2 ** 32, Math.floor(ms / 2 ** 32)]);
  t.same([...words.subarray(16, 18)], [0, 0], 'before 1970 is 1970');
  t.end();
});

t.test('milliseconds go to times and back', (t) => {
  for (const ms of [0, 1, 999, 1_700_000_000_123]) t.equal(toMs(fromMs(ms)), ms);
  t.end();
});

t.test('capacities beyond 2^32 blocks of 4 KiB raise the block size', (t) => {
  const totalBytes = 64 * 2 ** 50;
  const words = statvfsWords({ totalBytes, freeBytes: totalBytes / 2, inodes: 10, maxNameBytes: 255 });
  const [blockSize = 0, , blocks = 0, free = 0] = words;
  t.ok(blockSize > 4096);
  t.equal(blockSize * blocks, totalBytes);
  t.equal(blockSize * free, totalBytes / 2);
  t.equal(words[10], 255);
  t.end();
});

t.test('P8: a listing carries types up to a bound, names alone beyond it', (t) => {
  const entry = { name: Buffer.from('é'), inode: inodeId(5), kind: 'directory' as const };
  const short = listingWords([entry]);
  t.same(short.names, ['é']);
  t.same([short.stats[0]?.[0], short.stats[0]?.[7]], [0o040000, 5]);
  const long = listingWords(Array.from({ length: MAX_TYPED_LISTING + 1 }, () => entry));
  t.equal(long.names.length, MAX_TYPED_LISTING + 1);
  t.equal(long.stats.length, 0);
  t.end();
});
