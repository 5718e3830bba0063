import { randomBytes } from 'node:crypto';
import t from 'tap';
import { checksum } from '../../src/core/checksum.js';
import { withPart } from '../../src/core/checksum-parts.js';

t.test('the checksum of bytes of which a part is replaced', async (t) => {
  for (const length of [1, 2, 100, 4096, 65_535, 65_536]) {
    for (const [from, to] of [
      [0, length],
      [0, 1],
      [length - 1, length],
      [length >> 1, length],
      [0, (length >> 1) + 1],
      [length >> 2, (length >> 2) + (length >> 1)],
    ] as const) {
      const bytes = randomBytes(length);
      const whole = checksum(bytes);
      const before = checksum(bytes.subarray(from, to));
      const part = randomBytes(to - from);
      bytes.set(part, from);
      const now = withPart(whole, before, checksum(part), length - to);
      if (now !== checksum(bytes)) t.fail(`${length} bytes, ${from} to ${to}`);
    }
  }
  t.equal(withPart(7, 5, 5, 1000), 7, 'nothing is changed');
});
