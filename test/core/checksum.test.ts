import t from 'tap';
import fc from 'fast-check';
import { blockSegments, checksum, segmentChecksums, segmentsMatch } from '../../src/core/checksum.js';
import { BLOCK_SIZE_BYTES } from '../../src/core/limits.js';
import { SeededRandom } from '../../src/core/random.js';

t.test('checksum is CRC-32 (IEEE 802.3), and goes on from what came before', (t) => {
  t.equal(checksum(Buffer.from('123456789')), 0xcbf43926, 'the check value of the CRC catalogue');
  t.equal(checksum(Buffer.from('56789'), checksum(Buffer.from('1234'))), 0xcbf43926);
  t.end();
});

t.test('segments cover the run without gaps and never cross a block boundary', (t) => {
  const seed = Number(process.env['CAIRN_SEED'] ?? 1);
  t.comment(`seed ${seed}`);
  fc.assert(
    fc.property(fc.nat(5 * BLOCK_SIZE_BYTES), fc.nat(3 * BLOCK_SIZE_BYTES), (length, offset) => {
      let at = 0;
      for (const [start, end] of blockSegments(length, offset)) {
        if (start !== at || end <= start) return false;
        const block = Math.floor((offset + start) / BLOCK_SIZE_BYTES);
        if (Math.floor((offset + end - 1) / BLOCK_SIZE_BYTES) !== block) return false;
        at = end;
      }
      return at === length;
    }),
    { seed },
  );
  t.end();
});

t.test('P3: one changed bit, a missing or an extra checksum is seen', (t) => {
  const bytes = new SeededRandom(7).bytes(3 * BLOCK_SIZE_BYTES);
  const offset = 100;
  const sums = segmentChecksums(bytes, offset);
  t.equal(sums.length, 4);
  t.ok(segmentsMatch(bytes, offset, sums));
  t.notOk(segmentsMatch(bytes, offset, sums.slice(1)));
  t.notOk(segmentsMatch(bytes, offset, [...sums, 0]));
  t.notOk(segmentsMatch(bytes, offset + 1, sums), 'the same bytes elsewhere are other segments');
  for (const at of [0, BLOCK_SIZE_BYTES - offset, bytes.length - 1]) {
    const changed = Buffer.from(bytes);
    changed[at] = (changed[at] ?? 0) ^ 0x10;
    t.notOk(segmentsMatch(changed, offset, sums), `bit of byte ${at}`);
  }
  t.same(segmentChecksums(Buffer.alloc(0), 5), []);
  t.end();
});
